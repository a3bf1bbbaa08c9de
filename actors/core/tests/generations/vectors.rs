//! Every case of `vectors/generations.json`.

use mendblock_core::volume::generations::after_split_brain::AfterSplitBrain;
use mendblock_core::volume::generations::handshake::{Call, Next, Participant, Policies, RrConflict};
use mendblock_core::volume::generations::*;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn file() -> Value {
    serde_json::from_str(include_str!("../vectors/generations.json")).unwrap()
}

pub fn array<T: DeserializeOwned>(name: &str, count: usize) -> Vec<T> {
    let entries: Vec<T> = serde_json::from_value(file()[name].clone()).unwrap();
    assert_eq!(entries.len(), count, "{name}");
    entries
}

#[derive(Clone, Copy, Deserialize)]
struct Node {
    #[serde(flatten)]
    identifiers: Identifiers,
    flags: u32,
    #[serde(default)]
    bits: u64,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
pub enum Role {
    Primary,
    Secondary,
}

impl Node {
    fn side(self, role: Role) -> Side {
        Side {
            identifiers: self.identifiers,
            crashed_primary: self.flags & 2 != 0,
            primary: role == Role::Primary,
        }
    }
}

#[derive(Deserialize)]
struct Case {
    name: String,
    #[serde(rename = "self")]
    own: Node,
    peer: Node,
    self_role: Role,
    peer_role: Role,
    resolver: bool,
    protocol: u16,
    features: u16,
    expect: Expected,
}

#[derive(Deserialize)]
struct Expected {
    rule: u8,
    result: i32,
    self_after: Option<Identifiers>,
    peer_after: Option<Identifiers>,
}

#[test]
fn every_case_of_the_comparison() {
    for case in array::<Case>("cases", 124) {
        let verdict = compare(&Comparison {
            own: case.own.side(case.self_role),
            peer: case.peer.side(case.peer_role),
            resolver: case.resolver,
            agreed: Agreed {
                protocol: case.protocol,
                rule_41: case.features & 4 != 0,
                renames: false,
            },
        });
        let name = &case.name;
        assert_eq!(
            verdict.answer.rule.number(),
            case.expect.rule,
            "rule of {name}: {verdict}"
        );
        assert_eq!(
            verdict.answer.outcome.value(),
            case.expect.result,
            "result of {name}: {verdict}"
        );
        let own = case.expect.self_after.unwrap_or(case.own.identifiers);
        let peer = case.expect.peer_after.unwrap_or(case.peer.identifiers);
        assert_eq!(verdict.own_corrected(), own, "own slots of {name}");
        assert_eq!(verdict.peer_corrected(), peer, "peer's slots of {name}");
        assert_eq!(
            verdict.own, case.own.identifiers,
            "{name}: the slots as compared are kept"
        );
    }
}

#[derive(Deserialize)]
struct HandshakeCase {
    name: String,
    #[serde(rename = "self")]
    own: Node,
    peer: Node,
    self_role: Role,
    peer_role: Role,
    self_disk: NegotiatedDisk,
    peer_disk: NegotiatedDisk,
    resolver: bool,
    after_sb_0pri: Value,
    after_sb_1pri: Value,
    after_sb_2pri: Value,
    always_asbp: bool,
    rr_conflict: RrConflict,
    tentative: bool,
    peer_dry_run: bool,
    demotion_possible: bool,
    expect: ExpectedDecision,
}

#[derive(Deserialize)]
struct ExpectedDecision {
    next: String,
    full_sync: bool,
    calls: Vec<Call>,
}

/// A value that the option does not know counts as `disconnect`, its default.
fn policy<T: DeserializeOwned + Default>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

fn participant(node: &Node, disk: NegotiatedDisk) -> Participant {
    Participant {
        disk,
        discard_my_data: node.flags & 1 != 0,
        bits: node.bits,
    }
}

#[test]
fn every_handshake() {
    for case in array::<HandshakeCase>("handshake", 84) {
        let decision = decide(&Handshake {
            comparison: Comparison {
                own: case.own.side(case.self_role),
                peer: case.peer.side(case.peer_role),
                resolver: case.resolver,
                agreed: Agreed {
                    renames: false,
                    ..Agreed::OURS
                },
            },
            own: participant(&case.own, case.self_disk),
            peer: participant(&case.peer, case.peer_disk),
            own_disk_in_use: case.self_disk >= NegotiatedDisk::Consistent,
            policies: Policies {
                after_split_brain: AfterSplitBrain {
                    zero_primaries: policy(&case.after_sb_0pri),
                    one_primary: policy(&case.after_sb_1pri),
                    two_primaries: policy(&case.after_sb_2pri),
                },
                always_asbp: case.always_asbp,
                rr_conflict: case.rr_conflict,
            },
            tentative: case.tentative,
            peer_dry_run: case.peer_dry_run,
            demotion_possible: case.demotion_possible,
            peer_answer: None,
        });
        let next = match decision.next {
            Next::Connected => "Connected",
            Next::WFBitMapS => "WFBitMapS",
            Next::WFBitMapT => "WFBitMapT",
            Next::Refuse(_) => "refuse",
        };
        let name = &case.name;
        assert_eq!(next, case.expect.next, "{name}: {decision:?}");
        assert_eq!(decision.full_sync, case.expect.full_sync, "{name}: {decision:?}");
        assert_eq!(decision.calls, case.expect.calls, "{name}: {decision:?}");
    }
}

#[derive(Deserialize)]
struct Operation {
    name: String,
    operation: String,
    role: Role,
    before: Identifiers,
    random: Option<Generation>,
    sync_id: Option<Generation>,
    peer: Option<Identifiers>,
    after: Identifiers,
}

#[test]
fn every_operation() {
    for case in array::<Operation>("operations", 22) {
        let (before, primary) = (case.before, case.role == Role::Primary);
        let random = || case.random.unwrap().0;
        let after = match case.operation.as_str() {
            "NEW" => before.new_generation(primary, random()),
            "ROTATE-OUT+NEW" => before.rotate_out().new_generation(primary, random()),
            "START-SOURCE" => {
                let (after, sync_id) = before.start_source(random());
                assert_eq!(Some(sync_id), case.sync_id, "{}", case.name);
                after
            }
            "START-TARGET" => before.start_target(primary, case.sync_id.unwrap()),
            "FINISH-SOURCE" => before.finish_source(),
            "FINISH-TARGET" => before.finish_target(primary, &case.peer.unwrap()),
            other => panic!("unknown operation {other}"),
        };
        assert_eq!(after, case.after, "{}", case.name);
    }
}
