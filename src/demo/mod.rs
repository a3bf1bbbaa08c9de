//! `mendblock demo`: two nodes on this machine, and the story that Mendblock is there for, each step verified.
//!
//! Everything goes through public interfaces: off-line `create-md`, configuration files, the admin API, NBD.

mod compare;
mod directory;
mod nbd;
mod pattern;
mod process;
mod stage;
mod story;
mod terminal;
mod watch;

pub use process::end_with_parent;

use crate::admin::exit;
use crate::cli::DemoArguments;
use directory::DemoDirectory;
use stage::{Failure, Stage};
use std::io;
use terminal::Terminal;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A step could not be verified.
const FAILED: u8 = 1;
/// Ended by a signal before the story was told: 128 + SIGINT, as shells have it.
const INTERRUPTED: u8 = 130;

/// Runs the demo. The exit code of the process.
pub fn run(arguments: &DemoArguments) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mendblock: cannot start the demo: {error}");
            return FAILED;
        }
    };
    let code = runtime.block_on(play(arguments));
    // A request that hangs must not hold up the end.
    runtime.shutdown_background();
    code
}

async fn play(arguments: &DemoArguments) -> u8 {
    let directory = match DemoDirectory::prepare(&arguments.dir) {
        Ok(directory) => directory,
        Err(error) => {
            eprintln!("mendblock: {error}");
            return exit::USAGE;
        }
    };
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("mendblock: cannot wait for signals: {error}");
            return FAILED;
        }
    };
    let mut stage = Stage::new(&directory, Terminal::standard());
    let told = tokio::select! {
        told = story::tell(&mut stage) => Some(told),
        () = signals.any() => None,
    };
    let code = match told {
        Some(Ok(())) => {
            if !arguments.exit {
                stage.terminal.print(&how_to(&directory));
                signals.any().await;
            }
            exit::DONE
        }
        Some(Err(failure)) => {
            eprint!("{}", report(stage.step, &failure, &directory));
            FAILED
        }
        None => {
            stage.terminal.print("\n    Interrupted.\n");
            INTERRUPTED
        }
    };
    end(stage);
    code
}

/// Ends both nodes, at the same time.
fn end(mut stage: Stage) {
    stage.terminal.print("\n    Ending both nodes.\n");
    for node in [&mut stage.alice, &mut stage.bob] {
        if let Some(process) = &mut node.process {
            process.terminate();
        }
    }
}

fn report(step: u8, failure: &Failure, directory: &DemoDirectory) -> String {
    format!(
        "\nmendblock demo: step {step} failed\n  expected: {}\n  seen:     {}\n  logs:     {}\n            {}\n",
        failure.expected,
        failure.seen,
        directory.alice.log.display(),
        directory.bob.log.display()
    )
}

/// What to do with the running pair.
fn how_to(directory: &DemoDirectory) -> String {
    let program =
        std::env::current_exe().map_or_else(|_| "mendblock".into(), |program| program.display().to_string());
    let (alice, bob) = (&directory.alice, &directory.bob);
    let (nbd, admin) = (alice.nbd_socket.display(), alice.admin_socket.display());
    let uri = format!("nbd+unix:///{}?socket={nbd}", process::VOLUME);
    format!(
        "\n    The pair goes on running until Ctrl-C. alice is Primary; try, in another terminal:\n\n\
         \x20   look        {program} status --socket '{admin}'\n\
         \x20               {program} status --socket '{}'\n\
         \x20               {program} events --socket '{admin}'\n\
         \x20   describe    nbdinfo '{uri}'\n\
         \x20   copy        nbdcopy '{uri}' copy.img\n\
         \x20   load        fio --name=load --ioengine=nbd --uri='{uri}' --rw=randrw --bs=4k --iodepth=16 --time_based --runtime=10\n\
         \x20   machine     qemu-system-x86_64 -m 512 -drive 'file={uri},format=raw,if=virtio'\n\
         \x20   device      sudo nbd-client -unix '{nbd}' /dev/nbd0 -name {}\n\
         \x20   break it    {program} fault add {} --socket '{admin}' --kind read --first-sector 40960 --sectors 8 --mode until-written\n\
         \x20   mend it     {program} attach {} --socket '{admin}'\n\
         \x20   logs        {}  {}\n",
        bob.admin_socket.display(),
        process::VOLUME,
        process::VOLUME,
        process::VOLUME,
        alice.log.display(),
        bob.log.display()
    )
}

/// Signals that end the demo.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    #[test]
    fn a_failure_says_what_where_and_where_to_look() {
        let parent = tempfile::tempdir().unwrap();
        let directory = DemoDirectory::prepare(parent.path()).unwrap();
        let text = report(6, &Failure::new("good data", "an error"), &directory);
        let wanted = [
            "step 6 failed",
            "expected: good data",
            "seen:     an error",
            "alice.log",
            "bob.log",
        ];
        assert!(wanted.iter().all(|part| text.contains(part)), "{text}");
    }

    #[test]
    fn the_how_to_names_commands_that_exist_and_the_right_sockets() {
        let parent = tempfile::tempdir().unwrap();
        let directory = DemoDirectory::prepare(parent.path()).unwrap();
        let text = how_to(&directory);
        let program = std::env::current_exe().unwrap().display().to_string();
        let commands: Vec<&str> = text
            .lines()
            .filter_map(|line| Some(&line[line.find(&program)?..]))
            .collect();
        assert_eq!(commands.len(), 5);
        for command in commands {
            let words = command.split_whitespace().map(|word| word.trim_matches('\''));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{command}: {error}");
            }
        }
        let nbd = directory.alice.nbd_socket.display().to_string();
        assert_eq!(text.matches(&nbd).count(), 5, "{text}");
    }
}
