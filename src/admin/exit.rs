//! Exit codes of the commands: those of DRBD's `drbdsetup`.

/// Done, or nothing to do.
pub const DONE: u8 = 0;
/// Disk state is already lower than Outdated.
pub const LOWER_THAN_OUTDATED: u8 = 5;
/// A request was refused that is no state change.
pub const REFUSED: u8 = 10;
/// A state change was refused for a reason that has no code of its own.
pub const STATE_CHANGE_REFUSED: u8 = 11;
/// There is no local disk.
pub const NO_LOCAL_DISK: u8 = 16;
/// No access to UpToDate data would remain.
pub const NO_UP_TO_DATE_DATA: u8 = 17;
/// Wrong usage, no node behind the socket, or an answer that this program does not understand.
pub const USAGE: u8 = 20;

/// The exit code of an error number: negative ones are DRBD's refused state changes (SS numbers), positive ones refused
/// requests.
pub fn of_code(code: i32) -> u8 {
    match code {
        -16 => LOWER_THAN_OUTDATED,
        -11 => NO_LOCAL_DISK,
        -2 => NO_UP_TO_DATE_DATA,
        ..0 => STATE_CHANGE_REFUSED,
        _ => REFUSED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_drbdsetup() {
        let codes = [-1, -2, -10, -11, -16, -21, 102].map(of_code);
        assert_eq!(codes, [11, 17, 11, 16, 5, 11, 10]);
    }
}
