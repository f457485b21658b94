//! The limit of open files.

use std::io::{Error, Result};

/// Raises the soft limit of open files of this process to the hard one, and returns it. The soft one is often 1024, for
/// the sake of programs that use `select`; probing keeps a connection for each Service.
///
/// # Errors
/// What the system said.
#[allow(unsafe_code, reason = "the standard library knows no limits")]
pub fn raise_file_limit() -> Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls get a pointer to a whole rlimit that lives on this stack.
    let outcome = unsafe {
        match libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) {
            0 => {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_NOFILE, &limit)
            }
            failed => failed,
        }
    };
    match outcome {
        0 => Ok(limit.rlim_cur),
        _ => Err(Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_and_stays() {
        let raised = raise_file_limit().unwrap();
        assert!(raised >= 1024, "{raised}");
        assert_eq!(raise_file_limit().unwrap(), raised);
    }
}
