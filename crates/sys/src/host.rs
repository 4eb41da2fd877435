//! Properties of the host: its boot ID and XCR0.

use std::io;

/// The random ID that the kernel has chosen at boot.
///
/// # Errors
/// As `read(2)`: where `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim().to_owned())
}

/// The register states that the kernel has enabled (XCR0, SDM vol. 1, 13.3); 0 for a processor
/// without XSAVE.
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
