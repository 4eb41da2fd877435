//! What a host is, as far as the kernel and the processor tell at once.

use std::io;

/// The random number that the kernel has taken when it started.
///
/// # Errors
/// As `read(2)`: where `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim().to_owned())
}

/// The register sets that the kernel has switched on (XCR0, SDM vol. 1, 13.3); 0 for a
/// processor without XSAVE.
pub fn xcr0() -> u64 {
    // The standard library looks at OSXSAVE for it: the instruction is there and allowed.
    match std::arch::is_x86_feature_detected!("xsave") {
        // SAFETY: the processor has XSAVE, and the kernel has switched it on.
        true => unsafe { core::arch::x86_64::_xgetbv(0) },
        false => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_the_same_however_often_it_is_asked() {
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert_eq!(boot_id().unwrap().len(), 36);
        assert_eq!(xcr0(), xcr0());
        // x87 and SSE, wherever there is XSAVE.
        assert!(xcr0() == 0 || xcr0() & 3 == 3);
    }
}
