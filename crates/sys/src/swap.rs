//! How much of a process's memory the host has put into swap space
//! (`proc_pid_smaps(5)`).

use std::fs;
use std::io;

/// Bytes of this process, mapped files that lie in memory included.
///
/// # Errors
/// When `/proc/self/smaps_rollup` cannot be read.
pub fn swapped() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/smaps_rollup")?;
    let kib = swap_kib(&text).ok_or(io::ErrorKind::InvalidData)?;
    Ok(kib << 10)
}

fn swap_kib(rollup: &str) -> Option<u64> {
    let rest = rollup.lines().find_map(|line| line.strip_prefix("Swap:"))?;
    rest.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_how_much_is_swapped() {
        swapped().unwrap();
        let told = "00400000-7ffc0000 ---p 00000000 00:00 0 [rollup]\n\
                    Rss:                1024 kB\n\
                    Swap:                 52 kB\n\
                    SwapPss:               7 kB\n";
        assert_eq!(swap_kib(told), Some(52));
        assert_eq!(swap_kib("SwapPss: 7 kB\n"), None);
    }
}
