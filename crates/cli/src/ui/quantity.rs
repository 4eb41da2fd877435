//! Formatting durations and sizes.

use std::time::Duration;

/// A span of time with three digits or so: `840 us`, `8.40 ms`, `8.40 s`,
/// `2 min 5 s`.
pub(crate) fn duration_us(us: u64) -> String {
    let float = us as f64;
    match us {
        0..1000 => format!("{us} us"),
        1000..10_000 => format!("{:.2} ms", float / 1e3),
        10_000..1_000_000 => format!("{:.0} ms", float / 1e3),
        1_000_000..100_000_000 => format!("{:.2} s", float / 1e6),
        _ => format!("{} min {} s", us / 60_000_000, us / 1_000_000 % 60),
    }
}

/// Memory in MiB, small amounts with a decimal.
pub(crate) fn mib(kib: u64) -> String {
    match kib as f64 / 1024.0 {
        small if small < 100.0 => format!("{small:.1} MiB"),
        large => format!("{large:.0} MiB"),
    }
}

/// How long ago, roughly.
pub(crate) fn age(ago: Duration) -> String {
    match ago.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_with_the_unit_that_suits_them() {
        assert_eq!(duration_us(7), "7 us");
        assert_eq!(duration_us(8400), "8.40 ms");
        assert_eq!(duration_us(123_456), "123 ms");
        assert_eq!(duration_us(8_404_000), "8.40 s");
        assert_eq!(duration_us(125_000_000), "2 min 5 s");
        assert_eq!(mib(1536), "1.5 MiB");
        assert_eq!(mib(512 << 10), "512 MiB");
        assert_eq!(age(Duration::from_secs(119)), "119 s");
        assert_eq!(age(Duration::from_secs(7199)), "119 min");
        assert_eq!(age(Duration::from_secs(90_000)), "25 h");
    }
}
