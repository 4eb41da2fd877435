//! Parses the command line.

use crate::Work;

/// What a guest does between forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// `idle`: halts. After a fork each clone checks all its pages, marks some, and
    /// signals its [answer](Work::answer).
    #[default]
    Idle,
    /// `spin`: the same, but with all CPUs busy in between.
    Spin,
    /// `regs`: all CPUs hold known values in all their registers, x87 and SSE
    /// included.
    Regs,
    /// `isolate`: all CPUs keep rewriting all pages with words that only this clone
    /// writes, and checking them.
    Isolate,
    /// `timer`: there is always a timer running; every one must come, once.
    Timer,
    /// `pending`: there is always an interrupt pending; it must come, once.
    Pending,
    /// `fork`: asks for a fork, waits for it, and signals a [report](crate::report)
    /// of which one it is.
    Fork,
    /// `flood`: writes whatever there is to the signal port, without end.
    Flood,
    /// `quick`: halts, and checks nothing. A clone says at once that it is ready and
    /// then writes its marks; for measurements.
    Quick,
    /// `cow`: the copy-on-write benchmark of the HyperFork paper, section 5.1: times
    /// [`Passes`](crate::Passes) over its pages before the fork, and again in each
    /// clone.
    Cow,
}

/// What the command line may say, as words `name=value` between spaces. In the
/// modes from `regs` to `pending`, parent and clones signal a
/// [report](crate::report) each time the doorbell rings; with `quick` and `cow`
/// clones do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// `mode`.
    pub mode: Mode,
    /// `touch_mib`: in how many MiB of its memory it writes a word in each page
    /// before it is ready.
    pub touch_mib: u64,
    /// `dirty_pages`: how many of those pages each clone, and the parent after
    /// each fork, writes anew.
    pub dirty_pages: u64,
    /// `later_pages`: with `quick`, how many of those it writes in every round but the
    /// first, others each time; all of them where it is not there.
    pub later_pages: Option<u64>,
    /// `fork`: asks for so many clones once it is ready.
    pub fork: u32,
    /// `depth`: how many generations of clones the mode `fork` makes.
    pub depth: u32,
    /// `timer_ms`: how long each timer of the mode `timer` runs.
    pub timer_ms: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::Idle,
            touch_mib: 0,
            dirty_pages: 16,
            later_pages: None,
            fork: 0,
            depth: 1,
            timer_ms: 200,
        }
    }
}

impl Options {
    /// Reads a command line.
    ///
    /// # Errors
    /// The first word that means nothing.
    pub fn parse(cmdline: &str) -> Result<Self, &str> {
        let mut options = Self::default();
        for word in cmdline.split_ascii_whitespace() {
            options.set(word).ok_or(word)?;
        }
        Ok(options)
    }

    /// The pages it works on.
    pub fn work(&self) -> Work {
        Work::new(self.touch_mib << 8, self.dirty_pages)
    }

    fn set(&mut self, word: &str) -> Option<()> {
        let (name, value) = word.split_once('=')?;
        match name {
            "mode" => {
                self.mode = match value {
                    "idle" => Mode::Idle,
                    "spin" => Mode::Spin,
                    "regs" => Mode::Regs,
                    "isolate" => Mode::Isolate,
                    "timer" => Mode::Timer,
                    "pending" => Mode::Pending,
                    "fork" => Mode::Fork,
                    "flood" => Mode::Flood,
                    "quick" => Mode::Quick,
                    "cow" => Mode::Cow,
                    _ => return None,
                }
            }
            // Up to 1 TiB, which no table of ours reaches.
            "touch_mib" => self.touch_mib = value.parse().ok().filter(|mib| *mib <= 1 << 20)?,
            "dirty_pages" => self.dirty_pages = value.parse().ok()?,
            "later_pages" => self.later_pages = Some(value.parse().ok()?),
            "fork" => self.fork = value.parse().ok()?,
            "depth" => self.depth = value.parse().ok()?,
            // The local APIC's timer counts to 2^32 in steps of 128 ns.
            "timer_ms" => self.timer_ms = value.parse().ok().filter(|ms| *ms <= 500_000)?,
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_strange_ones_named() {
        let options = Options::parse(" mode=timer touch_mib=64  timer_ms=5 ").unwrap();
        assert_eq!(options.mode, Mode::Timer);
        assert_eq!(options.work().pages, 16384);
        assert_eq!(options.timer_ms, 5);
        assert_eq!(options.later_pages, None);
        let options = Options::parse("later_pages=7").unwrap();
        assert_eq!(options.later_pages, Some(7));
        assert_eq!(Options::parse(""), Ok(Options::default()));
        for word in [
            "quiet",
            "mode=",
            "mode=fast",
            "touch_mib=x",
            "later_pages=x",
            "touch_mib=9999999",
        ] {
            assert_eq!(Options::parse(word), Err(word));
        }
    }
}
