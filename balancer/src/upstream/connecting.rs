//! Why a connection could not be opened, judging by the system's error.

use std::io::{Error, ErrorKind};

use fleet::Fault;
use rustix::io::Errno;

/// System errors for a lack of descriptors, ports or memory.
const OUT_OF: [Errno; 6] = [
    Errno::MFILE,
    Errno::NFILE,
    Errno::NOBUFS,
    Errno::NOMEM,
    Errno::ADDRNOTAVAIL,
    Errno::ADDRINUSE,
];

/// The fault that a failed connect amounts to.
pub(crate) fn fault_of(error: &Error) -> Fault {
    let code = error.raw_os_error();
    if code.is_some_and(|code| OUT_OF.iter().any(|one| one.raw_os_error() == code)) {
        return Fault::Exhausted;
    }
    let kind = error.kind();
    if kind == ErrorKind::ConnectionRefused {
        Fault::Refused
    } else if kind == ErrorKind::TimedOut {
        Fault::ConnectTimedOut
    } else if matches!(kind, ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) {
        Fault::Unreachable
    } else {
        Fault::NotConnected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_not_blamed_on_the_endpoint() {
        let fault = |errno: Errno| fault_of(&Error::from_raw_os_error(errno.raw_os_error()));
        assert_eq!(fault(Errno::MFILE), Fault::Exhausted);
        assert_eq!(fault(Errno::ADDRNOTAVAIL), Fault::Exhausted);
        assert_eq!(fault(Errno::CONNREFUSED), Fault::Refused);
        assert_eq!(fault(Errno::HOSTUNREACH), Fault::Unreachable);
    }
}
