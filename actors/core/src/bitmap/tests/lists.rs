//! Lists between the nodes, resync, bulk changes.

use super::*;

#[test]
fn old_suspect_record_meets_a_healed_block() {
    let mut node = Node::attached(0);
    node.mark(
        8,
        MarkReason::ReadError {
            error: ErrorNumber(1),
        },
    );
    node.run();
    node.clear(8, ClearReason::WrittenOnBoth);
    assert!(node.map().unwrap().is_set(8), "a bad block needs the read-back");
    node.clear(8, ClearReason::ResyncWritten);
    node.run();
    assert!(!node.map().unwrap().is_set(8));
    node.peer(lists(vec![], vec![record(8)], vec![]));
    node.run();
    assert!(
        !node.newest().records.is_bad(range(8, 1)),
        "the tombstone is newer"
    );
    node.peer(message(Message::ClearedAck {
        ranges: vec![range(8, 1)],
    }));
    node.run();
    assert_eq!(node.newest().records.records(), []);
    node.peer(lists(vec![], vec![record(8)], vec![]));
    node.run();
    assert!(node.newest().records.is_bad(range(8, 1)));
    assert_eq!(node.newest().records.own().next().unwrap().cause, Cause::PeerSaid);
}

#[test]
fn lists_are_merged_durably_before_the_handshake() {
    let mut node = Node::attached(0);
    node.hold_health = true;
    node.send(BitmapIn::SendRecords { connection: LINK });
    node.frames.clear();
    node.peer(lists(vec![record(3)], vec![record(4)], vec![range(9, 2)]));
    while node.complete() {}
    let merged = |node: &Node| {
        node.state.iter().any(|state| {
            matches!(
                state,
                StateIn::PeerRecordsMerged {
                    own_bad: 1,
                    peer_bad: 1,
                    ..
                }
            )
        })
    };
    assert!(!merged(&node) && node.frames.is_empty());
    node.hold_health = false;
    node.run();
    assert!(merged(&node));
    assert_eq!(
        node.frames[0].message,
        Message::ClearedAck {
            ranges: vec![range(9, 2)]
        }
    );
    assert!(node.durable().is_set(3) && node.durable().is_set(4));
    let picture = node.pictures.last().unwrap();
    assert_eq!(
        (&picture.own[..], &picture.peer[..]),
        (&[range(4, 1)][..], &[range(3, 1)][..])
    );
}

fn counts(node: &Node) -> Vec<(u64, u64)> {
    let merged = node.state.iter().filter_map(|state| match state {
        StateIn::PeerRecordsMerged {
            own_bad, peer_bad, ..
        } => Some((*own_bad, *peer_bad)),
        _ => None,
    });
    merged.collect()
}

/// Each node decides by the lists that both know of: a block that goes bad behind one of them is in neither count, whichever list
/// was sent first.
#[test]
fn both_nodes_count_the_same_when_a_block_goes_bad_while_lists_cross() {
    let bad = |node: &mut Node, block| {
        let error = ErrorNumber(1);
        node.mark(block, MarkReason::ReadError { error });
        node.run();
    };
    for error_at in 0..4 {
        let (mut a, mut b) = (Node::attached(0), Node::attached(1));
        let error = |b: &mut Node, at| {
            if at == error_at {
                bad(b, 8);
            }
        };
        error(&mut b, 0);
        a.send(BitmapIn::SendRecords { connection: LINK });
        talk(&mut a, &mut b);
        assert_eq!(counts(&b), [], "its own list is not sent yet");
        error(&mut b, 1);
        b.send(BitmapIn::SendRecords { connection: LINK });
        error(&mut b, 2);
        talk(&mut a, &mut b);
        error(&mut b, 3);
        let listed = u64::from(error_at < 2);
        assert_eq!(counts(&a), [(0, listed)], "{error_at}");
        assert_eq!(counts(&b), [(listed, 0)], "{error_at}");
    }
}

/// Suspicions count on both sides, unless the one that is meant has healed the block meanwhile.
#[test]
fn suspected_and_healed_blocks_are_counted_alike() {
    let (mut a, mut b) = (Node::attached(0), Node::attached(1));
    for block in [20, 21, 30] {
        a.mark(block, MarkReason::PeerFailed);
    }
    b.mark(
        30,
        MarkReason::ReadError {
            error: ErrorNumber(1),
        },
    );
    b.mark(
        21,
        MarkReason::ReadError {
            error: ErrorNumber(2),
        },
    );
    b.clear(21, ClearReason::ResyncWritten);
    a.run();
    b.run();
    for node in [&mut a, &mut b] {
        node.send(BitmapIn::SendRecords { connection: LINK });
    }
    talk(&mut a, &mut b);
    assert_eq!(counts(&a), [(0, 2)]);
    assert_eq!(counts(&b), [(2, 0)]);
}

#[test]
fn a_list_survives_the_way_to_the_peer() {
    let (mut a, mut b) = (Node::attached(0), Node::attached(1));
    a.mark(
        8,
        MarkReason::ReadError {
            error: ErrorNumber(1),
        },
    );
    a.mark(20, MarkReason::PeerFailed);
    a.send(BitmapIn::SendRecords { connection: LINK });
    talk(&mut a, &mut b);
    assert!(b.newest().records.is_bad(range(20, 1)));
    assert_eq!(b.newest().records.own().next().unwrap().cause, Cause::MissedWrite);
    assert_eq!(
        b.newest()
            .records
            .suspects(0)
            .map(|record| record.range)
            .collect::<Vec<_>>(),
        [range(8, 1)]
    );
}

#[test]
fn a_tell_is_answered_when_durable() {
    let mut node = Node::attached(0);
    node.send(BitmapIn::RecordTell {
        connection: LINK,
        number: 6,
        records: vec![record(40)],
    });
    let told = |node: &Node| {
        node.state
            .iter()
            .any(|state| matches!(state, StateIn::TellRecorded { number: 6, .. }))
    };
    assert!(!told(&node));
    node.run();
    assert!(told(&node) && node.durable().is_set(40));
    assert_eq!(node.newest().records.suspects(1).count(), 1);
}

#[test]
fn the_next_run_skips_what_cannot_be_fetched() {
    let mut node = Node::attached(0);
    for block in 10..20 {
        node.mark(block, MarkReason::PeerLacks);
    }
    node.peer(lists(vec![record(13)], vec![], vec![]));
    node.send(BitmapIn::NextRun {
        query: Query(1),
        from: 11,
        max_blocks: 4,
        max_runs: 3,
    });
    assert_eq!(node.runs, [vec![range(11, 2), range(14, 1), range(15, 4)]]);
}

#[test]
fn lost_blocks_are_durable_before_the_next_answer() {
    let mut node = Node::attached(0);
    node.hold_health = true;
    node.send(BitmapIn::Lost {
        ranges: vec![range(5, 1)],
    });
    node.send(BitmapIn::NextRun {
        query: Query(1),
        from: 0,
        max_blocks: 4,
        max_runs: 3,
    });
    while node.complete() {}
    assert!(node.runs.is_empty());
    node.hold_health = false;
    node.run();
    assert_eq!(node.runs, [Vec::new()], "nobody has the block");
    assert_eq!(
        node.newest().records.own().next().unwrap().state,
        BlockState::Lost
    );
}

#[test]
fn bulk_clear_keeps_listed_blocks() {
    let mut node = Node::attached(0);
    node.mark(
        8,
        MarkReason::ReadError {
            error: ErrorNumber(1),
        },
    );
    node.send(BitmapIn::SetAll {
        query: Query(4),
        reason: "test".to_owned(),
    });
    node.run();
    assert!(
        node.state
            .iter()
            .any(|state| matches!(state, StateIn::AllSet { result: Ok(()), .. }))
    );
    node.send(BitmapIn::ClearAll {
        reason: "test".to_owned(),
    });
    assert_eq!(node.map().unwrap().runs().collect::<Vec<_>>(), [range(8, 1)]);
}

#[test]
fn wrong_pages_of_the_peer_end_the_connection() {
    for (first, pages, set_bits) in [(1, 1, 0), (0, 64, 0), (0, 4, 1), (0, 3, 0)] {
        let mut node = Node::attached(0);
        node.send(BitmapIn::Exchange {
            connection: LINK,
            source: false,
            after: MarkNumber(0),
        });
        let encoding = mendblock_net::wire::message::BitmapEncoding::Uniform(false);
        node.peer(message(Message::BitmapPages {
            first_page: first,
            pages,
            encoding,
        }));
        node.peer(message(Message::BitmapEnd { set_bits }));
        assert!(node.drops > 0, "{first} {pages} {set_bits}");
    }
}

#[test]
fn a_map_of_an_exchange_that_was_given_up_is_not_taken_for_the_next_one() {
    let exchange = |node: &mut Node| {
        node.send(BitmapIn::Exchange {
            connection: LINK,
            source: false,
            after: MarkNumber(0),
        });
    };
    let map = |node: &mut Node| {
        let encoding = mendblock_net::wire::message::BitmapEncoding::Uniform(false);
        let pages = node.map().unwrap().page_count();
        node.peer(message(Message::BitmapPages {
            first_page: 0,
            pages,
            encoding,
        }));
        node.peer(message(Message::BitmapEnd { set_bits: 0 }));
    };
    let exchanged = |node: &Node| {
        let ended = |state: &&StateIn| matches!(state, StateIn::BitmapExchanged { .. });
        node.state.iter().filter(ended).count()
    };
    for ordered in [false, true] {
        let mut node = Node::attached(0);
        if ordered {
            exchange(&mut node);
        } else {
            map(&mut node);
        }
        // One of the two lost its disk; it is attached again: parameters, then another exchange.
        node.peer(message(Message::BadBlocks {
            own: vec![],
            suspect: vec![],
            tombstones: vec![],
            last: true,
        }));
        if ordered {
            map(&mut node);
        } else {
            exchange(&mut node);
        }
        assert_eq!(
            exchanged(&node),
            0,
            "ordered {ordered}: the other half is still to come"
        );
        if ordered {
            exchange(&mut node);
        } else {
            map(&mut node);
        }
        assert_eq!(exchanged(&node), 1, "ordered {ordered}");
    }
}

#[test]
fn a_list_longer_than_a_message_arrives_whole() {
    let (mut a, mut b) = (Node::attached(0), Node::attached(1));
    for block in 0..700 {
        a.mark(2 * block, MarkReason::MissedWrite);
        a.mark(2 * block + 1, MarkReason::PeerFailed);
    }
    a.run();
    a.send(BitmapIn::SendRecords { connection: LINK });
    for frame in &a.frames {
        let Message::BadBlocks {
            own,
            suspect,
            tombstones,
            ..
        } = &frame.message
        else {
            panic!("only lists are sent")
        };
        let most = mendblock_net::wire::prelude::MAX_RECORDS;
        assert!(own.len() + suspect.len() + tombstones.len() <= most);
    }
    talk(&mut a, &mut b);
    let records = b.newest().records;
    let suspects: u64 = records
        .suspects(0)
        .map(|record| u64::from(record.range.count()))
        .sum();
    assert_eq!((records.own_blocks(), suspects), (700, 700));
}

#[test]
fn a_full_list_is_told_once_and_its_mark_has_no_record() {
    let mut node = Node::attached(0);
    node.send(BitmapIn::Mark(vec![Mark {
        number: MarkNumber(1),
        ranges: vec![range(0, 16384)],
        reason: MarkReason::MissedWrite,
    }]));
    node.run();
    node.last_mark = 1;
    node.mark(20_000, MarkReason::MissedWrite);
    node.mark(20_002, MarkReason::MissedWrite);
    node.run();
    assert_eq!(
        node.marked,
        [
            (1, MarkOutcome::Durable),
            (2, MarkOutcome::RecordLost),
            (3, MarkOutcome::RecordLost)
        ]
    );
    let told = |state: &&StateIn| matches!(state, StateIn::TooManyBad);
    assert_eq!(node.state.iter().filter(told).count(), 1);
    assert!(node.durable().is_set(20_000));
}

#[test]
fn a_lost_list_makes_every_bit_bad_though_there_is_no_file_yet() {
    let mut node = Node::attached(0);
    node.mark(8, MarkReason::PeerLacks);
    node.run();
    node.health = [Vec::new(), Vec::new()];
    node.restart();
    node.change(|_| {});
    node.send(BitmapIn::Load {
        query: Query(2),
        plan: Box::new(LoadPlan {
            layout: layout(),
            volume_sectors: SECTORS,
            agreed_sectors: SECTORS,
            set_all: false,
            // Hot when the node crashed: that says nothing of errors.
            extents: vec![1],
            list_lost: true,
        }),
    });
    node.run();
    node.commit();
    let records = node.newest().records;
    let record = records.own().next().expect("the block with a bit is bad");
    assert_eq!((record.range, record.good_at), (range(8, 1), GoodAt::Unknown));
    assert_eq!(node.pictures.last().unwrap().own, [range(8, 1)]);
}

#[test]
fn healed_blocks_are_confirmed_only_when_that_is_durable() {
    let mut node = Node::attached(0);
    node.connect();
    node.mark(8, MarkReason::MissedWrite);
    node.peer(lists(vec![record(30)], vec![], vec![]));
    node.run();
    node.frames.clear();
    node.failing_health = true;
    node.clear(8, ClearReason::ResyncWritten);
    node.peer(message(Message::Cleared {
        ranges: vec![range(30, 1)],
    }));
    node.run();
    let sent: Vec<Message> = node.frames.drain(..).map(|frame| frame.message).collect();
    assert_eq!(
        sent,
        [Message::Cleared {
            ranges: vec![range(8, 1)]
        }],
        "the peer's record would bring the block back after a crash, and its own must not get lost"
    );
    node.failing_health = false;
    node.clear(8, ClearReason::ResyncWritten);
    node.peer(message(Message::Cleared {
        ranges: vec![range(30, 1)],
    }));
    node.run();
    assert_eq!(
        node.frames.pop_front().unwrap().message,
        Message::ClearedAck {
            ranges: vec![range(30, 1)]
        }
    );
}

#[test]
fn a_lost_block_is_fetched_when_the_peer_has_healed_it() {
    let mut node = Node::attached(0);
    node.peer(lists(vec![record(5)], vec![], vec![]));
    node.send(BitmapIn::Lost {
        ranges: vec![range(5, 1)],
    });
    node.run();
    node.peer(message(Message::Cleared {
        ranges: vec![range(5, 1)],
    }));
    node.send(BitmapIn::NextRun {
        query: Query(1),
        from: 0,
        max_blocks: 4,
        max_runs: 3,
    });
    node.run();
    assert_eq!(node.runs, [vec![range(5, 1)]]);
}

#[test]
fn whether_the_peer_has_a_bad_block_is_judged_block_by_block() {
    let mut node = Node::attached(0);
    node.connect();
    node.mark(11, MarkReason::PeerLacks);
    node.send(BitmapIn::Mark(vec![Mark {
        number: MarkNumber(2),
        ranges: vec![range(10, 3)],
        reason: MarkReason::ReadError {
            error: ErrorNumber(1),
        },
    }]));
    node.run();
    let records = node.newest().records;
    let good: Vec<_> = records
        .own()
        .map(|record| (record.range, record.good_at))
        .collect();
    assert_eq!(
        good,
        [
            (range(10, 1), GoodAt::Yes),
            (range(11, 1), GoodAt::No),
            (range(12, 1), GoodAt::Yes)
        ]
    );
    let picture = node.pictures.last().unwrap();
    assert_eq!(picture.own, [range(10, 1), range(11, 1), range(12, 1)]);
    assert_eq!(
        picture.peer,
        [range(11, 1)],
        "nobody has the last write of block 11"
    );
}

#[test]
fn no_block_that_the_peer_lacks_is_missing_in_the_picture() {
    let mut node = Node::attached(0);
    node.connect();
    for block in 0..3000 {
        node.mark(block * 30, MarkReason::PeerLacks);
    }
    node.run();
    let picture = node.pictures.last().unwrap();
    let named = |block: u64| picture.peer.iter().any(|range| range.contains(block));
    assert!((0..3000).all(|block| named(block * 30)));
}

/// The bits of a failed flush are the own disk's, but only the snapshot says so. Before a client gets an error for them it is there.
#[test]
fn the_volume_part_has_the_picture_of_the_last_state_when_it_asks() {
    let mut node = Node::attached(0);
    node.connect();
    let error = ErrorNumber(1);
    node.mark(5, MarkReason::FlushError { error });
    node.mark(20, MarkReason::PeerLacks);
    node.run();
    let peer = |node: &Node| node.pictures.last().unwrap().peer.clone();
    assert_eq!(peer(&node), [range(5, 1), range(20, 1)]);
    node.change(|snapshot| snapshot.vector.disk = DiskState::Failed);
    let (query, snapshot) = node.ask_news();
    assert!(peer(&node).is_empty());
    assert_eq!(node.news, [(query, snapshot, node.pictures.len())]);
}

#[test]
fn frames_of_an_older_connection_change_nothing() {
    let mut node = Node::attached(0);
    node.connect();
    node.send(BitmapIn::Peer {
        connection: ConnectionNumber(LINK.0 - 1),
        frame: message(Message::Cleared {
            ranges: vec![range(1, 1)],
        }),
    });
    node.run();
    assert!(node.frames.is_empty());
}

#[test]
fn a_suspect_block_that_is_not_good_here_is_asked_for() {
    let mut node = Node::attached(0);
    node.connect();
    node.change(|snapshot| {
        snapshot.vector.connection = ConnectionState::SyncTarget;
        snapshot.vector.disk = DiskState::Inconsistent;
    });
    for block in [3, 5] {
        node.mark(block, MarkReason::PeerLacks);
    }
    node.run();
    // Told of a block that was to be fetched: only the source knows whether it is lost.
    let tell = |block| BitmapIn::RecordTell {
        connection: LINK,
        number: block,
        records: vec![record(block)],
    };
    node.send(tell(3));
    node.send(tell(9));
    node.run();
    node.send(BitmapIn::NextRun {
        query: Query(1),
        from: 0,
        max_blocks: 4,
        max_runs: 4,
    });
    assert_eq!(node.runs, [vec![range(3, 1), range(5, 1)]], "9 is good here");
}

/// Errors of the time without a connection are told on the next one, before the bitmaps say what was written meanwhile.
#[test]
fn what_is_told_before_the_bitmaps_are_exchanged_says_nothing_about_the_own_copy() {
    let mut node = Node::attached(0);
    node.connect();
    node.change(|snapshot| {
        snapshot.vector.connection = ConnectionState::WFBitMapT;
        snapshot.vector.disk = DiskState::Outdated;
    });
    // The peer's list came before: it knows of block 5, and of its failed write to 7, that this copy is good.
    let good = |block| WireRecord {
        good_at: 1,
        ..record(block)
    };
    node.peer(lists(vec![good(5), good(7)], vec![], vec![]));
    let mut write = record(7);
    write.cause = 1;
    node.send(BitmapIn::RecordTell {
        connection: LINK,
        number: 1,
        records: vec![record(3), record(5), write],
    });
    node.run();
    let records = node.newest().records;
    let good_at: Vec<_> = records.suspects(1).map(|record| record.good_at).collect();
    assert_eq!(good_at, [GoodAt::Unknown, GoodAt::Yes, GoodAt::Yes]);
}

#[test]
fn a_write_that_the_peer_lacks_makes_its_copy_of_a_bad_block_no_good() {
    let mut node = Node::attached(0);
    let error = ErrorNumber(1);
    node.mark(7, MarkReason::ReadError { error });
    node.run();
    let good_at = |node: &Node| node.newest().records.own().next().unwrap().good_at;
    assert_eq!(good_at(&node), GoodAt::Yes);
    node.mark(7, MarkReason::PeerLacks);
    node.run();
    assert_eq!(node.marked.last(), Some(&(2, MarkOutcome::Durable)));
    assert_eq!(good_at(&node), GoodAt::No);
}

#[test]
fn a_write_that_only_this_node_gets_makes_the_peers_copy_of_a_bad_block_no_good() {
    let mut node = Node::attached(0);
    node.connect();
    let error = ErrorNumber(1);
    node.mark(7, MarkReason::ReadError { error });
    node.mark(7, MarkReason::OnlyCopy);
    node.run();
    assert_eq!(node.newest().records.own().next().unwrap().good_at, GoodAt::No);
}

/// A Secondary whose disk failed a mirrored write: the disk says so, and the write is refused to its sender.
#[test]
fn a_write_that_failed_here_and_is_noted_as_missed_too_is_good_at_the_peer() {
    let mut node = Node::attached(0);
    node.connect();
    node.mark(8, MarkReason::PeerLacks);
    let error = ErrorNumber(1);
    for (number, reason) in [
        (2, MarkReason::WriteError { error }),
        (3, MarkReason::MissedWrite),
    ] {
        node.send(BitmapIn::Mark(vec![Mark {
            number: MarkNumber(number),
            ranges: vec![range(7, 3)],
            reason,
        }]));
    }
    node.run();
    let records = node.newest().records;
    let good: Vec<_> = records
        .own()
        .map(|record| (record.range, record.good_at))
        .collect();
    let expected = [
        (range(7, 1), GoodAt::Yes),
        (range(8, 1), GoodAt::No),
        (range(9, 1), GoodAt::Yes),
    ];
    assert_eq!(good, expected);
    // From a sender without a good disk, this content is nowhere.
    node.change(|snapshot| snapshot.vector.peer_disk = DiskState::Diskless);
    node.mark(7, MarkReason::MissedWrite);
    node.run();
    let good_at = |node: &Node| node.newest().records.own().next().unwrap().good_at;
    assert_eq!(good_at(&node), GoodAt::No);
}

#[test]
fn a_block_that_reads_twice_leaves_the_list_and_keeps_its_bit_but_not_a_failed_write() {
    let mut node = Node::attached(0);
    let error = ErrorNumber(1);
    node.mark(7, MarkReason::ReadError { error });
    node.mark(9, MarkReason::WriteError { error });
    node.run();
    for block in [7, 9] {
        node.clear(block, ClearReason::ReadTwice);
    }
    node.run();
    let records = node.newest().records;
    assert!(!records.is_bad(range(7, 1)) && records.is_bad(range(9, 1)));
    let left = |state: &StateIn| match state {
        StateIn::LeftList { ranges } => Some(ranges.clone()),
        _ => None,
    };
    let left: Vec<_> = node.state.iter().filter_map(left).flatten().collect();
    assert_eq!(left, [range(7, 1)], "the peer is not to be told of it any more");
    assert!(node.durable().is_set(7) && node.durable().is_set(9));
}

#[test]
fn read_back_is_acknowledged_when_the_entry_cannot_come_back() {
    let mut node = Node::attached(0);
    let error = ErrorNumber(1);
    node.mark(7, MarkReason::ReadError { error });
    node.run();
    // Seen on another disk than the one that this list is about.
    let attach = AttachId(999);
    node.mark(7, MarkReason::ReadBack { attach });
    node.run();
    assert_eq!(node.marked.last(), Some(&(2, MarkOutcome::Durable)));
    assert!(node.newest().records.is_bad(range(7, 1)));

    node.hold_health = true;
    let attach = AttachId(5);
    node.mark(7, MarkReason::ReadBack { attach });
    node.run();
    assert_eq!(node.marked.len(), 2, "a crash now would bring the entry back");
    node.hold_health = false;
    node.run();
    assert_eq!(node.marked.last(), Some(&(3, MarkOutcome::Durable)));
    assert!(!node.newest().records.is_bad(range(7, 1)));
    assert!(
        node.durable().is_set(7),
        "whether the peer has it is another question"
    );
}

#[test]
fn peers_word_takes_nothing_off_the_own_list() {
    let mut node = Node::attached(0);
    let error = ErrorNumber(1);
    node.mark(7, MarkReason::ReadError { error });
    node.mark(9, MarkReason::PeerLacks);
    node.run();
    node.clear(7, ClearReason::PeerWrote);
    node.clear(9, ClearReason::PeerWrote);
    node.run();
    assert!(node.newest().records.is_bad(range(7, 1)));
    let map = node.map().unwrap();
    assert!(map.is_set(7) && !map.is_set(9));
}

#[test]
fn overwritten_block_that_went_bad_again_or_at_the_peer_keeps_its_bit() {
    let mut node = Node::attached(0);
    node.connect();
    let error = ErrorNumber(1);
    node.mark(7, MarkReason::ReadError { error });
    node.mark(8, MarkReason::PeerFailed);
    node.mark(9, MarkReason::PeerLacks);
    node.run();
    for block in [7, 8, 9] {
        node.clear(block, ClearReason::Overwritten);
    }
    node.run();
    let set = [7, 8, 9].map(|block| node.map().unwrap().is_set(block));
    assert_eq!(set, [true, true, false]);
}

/// A drive that has remapped its bad block by itself reads zeroes there: only the list tells.
#[test]
fn a_list_that_cannot_be_written_is_named_in_the_superblock() {
    let mut node = Node::attached(0);
    let unwritten = |node: &Node| {
        let named = node.state.iter().filter_map(|state| match state {
            StateIn::ListUnwritten(StoredAnchor::Present(anchor)) => {
                Some((anchor.sequence, anchor.record_count))
            }
            _ => None,
        });
        named.collect::<Vec<_>>()
    };
    let durable = node.newest().sequence;
    node.failing_health = true;
    node.mark(3, MarkReason::PeerLacks);
    node.run();
    assert_eq!(unwritten(&node), []);
    let error = ErrorNumber(1);
    node.mark(8, MarkReason::ReadError { error });
    node.run();
    assert_eq!(unwritten(&node), [(durable + 1, 1)]);
    // Healed, and still unwritten: else the next crash would make good blocks bad.
    node.clear(8, ClearReason::ResyncWritten);
    node.run();
    assert_eq!(unwritten(&node), [(durable + 1, 1), (durable + 2, 0)]);
}
