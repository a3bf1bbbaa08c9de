//! The line between two nodes, as a proxy that can be cut, or fall silent.

use crate::pair::loopback;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often an idle thread looks at the line's state.
const POLL: Duration = Duration::from_millis(10);

/// What the line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Line {
    /// It carries.
    Open,
    /// Connections break, and new ones break at once.
    Cut,
    /// Nothing gets through, and nobody is told.
    Silent,
    /// The test is over.
    Ended,
}

impl Line {
    fn of(number: &AtomicU8) -> Self {
        let all = [Self::Open, Self::Cut, Self::Silent];
        let found = all
            .into_iter()
            .find(|line| *line as u8 == number.load(Ordering::SeqCst));
        found.unwrap_or(Self::Ended)
    }
}

/// Both directions in which nodes dial.
pub struct Link {
    state: Arc<AtomicU8>,
    accepting: Vec<JoinHandle<()>>,
}

impl Link {
    /// A line on which nodes that dial one of the returned addresses reach the node behind it.
    pub fn between(nodes: [SocketAddr; 2]) -> (Self, [IpAddr; 2]) {
        let state = Arc::new(AtomicU8::new(Line::Open as u8));
        let mut accepting = Vec::new();
        let addresses = nodes.map(|node| {
            let address = loopback();
            let listener = TcpListener::bind(SocketAddr::new(address, node.port())).unwrap();
            listener.set_nonblocking(true).unwrap();
            let state = Arc::clone(&state);
            accepting.push(std::thread::spawn(move || accept(&listener, node, &state)));
            address
        });
        (Self { state, accepting }, addresses)
    }

    /// Changes what the line does.
    pub fn set(&self, line: Line) {
        self.state.store(line as u8, Ordering::SeqCst);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.set(Line::Ended);
        for thread in self.accepting.drain(..) {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, node: SocketAddr, state: &Arc<AtomicU8>) {
    loop {
        match (Line::of(state), listener.accept()) {
            (Line::Ended, _) => return,
            (Line::Cut, _) | (_, Err(_)) => std::thread::sleep(POLL),
            // Nobody has to listen there now: then this end breaks as well.
            (_, Ok((near, _))) => drop(carry(near, node, state)),
        }
    }
}

fn carry(near: TcpStream, node: SocketAddr, state: &Arc<AtomicU8>) -> io::Result<()> {
    near.set_nonblocking(false)?;
    let far = TcpStream::connect(node)?;
    for (from, to) in [(&near, &far), (&far, &near)] {
        from.set_nodelay(true)?;
        from.set_read_timeout(Some(POLL))?;
        from.set_write_timeout(Some(Duration::from_secs(5)))?;
        let (from, to, state) = (from.try_clone()?, to.try_clone()?, Arc::clone(state));
        std::thread::spawn(move || {
            // However it ended: both ends are told.
            let _ = pump(&from, &to, &state);
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}

fn pump(mut from: &TcpStream, mut to: &TcpStream, state: &AtomicU8) -> io::Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        match Line::of(state) {
            Line::Cut | Line::Ended => return Ok(()),
            Line::Silent => std::thread::sleep(POLL),
            Line::Open => match from.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(length) => to.write_all(&bytes[..length])?,
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            },
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
