//! Passes output that comes in pieces on line by line.

/// Gives each line to `output` as soon as it is whole.
pub(super) struct Lines<'a> {
    output: &'a mut dyn FnMut(&str),
    /// The line that has begun.
    begun: Vec<u8>,
    /// The last whole one that says something.
    last: String,
}

impl<'a> Lines<'a> {
    pub(super) fn new(output: &'a mut dyn FnMut(&str)) -> Self {
        Self {
            output,
            begun: Vec::new(),
            last: String::new(),
        }
    }

    pub(super) fn take(&mut self, piece: &[u8]) {
        for part in piece.split_inclusive(|&byte| byte == b'\n') {
            self.begun.extend(part);
            if self.begun.ends_with(b"\n") {
                self.begun.pop();
                self.give();
            }
        }
    }

    /// Gives what has begun and was not ended. Says what the last line was, whole or
    /// not: a test program that hangs has begun a line with the test's name.
    pub(super) fn end(&mut self) -> &str {
        if !self.begun.is_empty() {
            self.give();
        }
        &self.last
    }

    fn give(&mut self) {
        let line = String::from_utf8_lossy(&self.begun).into_owned();
        self.begun.clear();
        (self.output)(&line);
        if !line.is_empty() {
            self.last = line;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    #[test]
    fn lines_come_whole_and_the_one_it_hung_in_comes_at_the_end() {
        let mut given = Vec::new();
        let mut output = |line: &str| given.push(line.to_owned());
        let mut lines = Lines::new(&mut output);
        for piece in ["runn", "ing 2 tests\n\ntest a ... ok\nte", "st b ... "] {
            lines.take(piece.as_bytes());
        }
        assert_eq!(lines.end(), "test b ... ");
        assert_eq!(
            given,
            ["running 2 tests", "", "test a ... ok", "test b ... "]
        );
    }

    #[test]
    fn the_last_line_is_one_that_says_something() {
        let mut output = |_: &str| {};
        let mut lines = Lines::new(&mut output);
        lines.take(b"test result: ok\n\n");
        assert_eq!(lines.end(), "test result: ok");
    }
}
