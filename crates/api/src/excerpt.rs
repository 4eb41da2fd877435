//! Text of a peer's in messages for people.

/// The beginning of a peer's text, of `most` characters at most, for a message of one line: what
/// would not be printed is escaped, since it could control a terminal.
pub fn excerpt(text: &str, most: usize) -> String {
    let mut shown = String::new();
    for character in text.chars().take(most) {
        match character {
            '"' | '\'' | '\\' => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
    }
    if text.chars().nth(most).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_sent_is_cut_and_cannot_control_a_terminal() {
        assert_eq!(excerpt("it's \"ü\"", 20), "it's \"ü\"");
        assert_eq!(excerpt("0123456789", 10), "0123456789");
        assert_eq!(excerpt("01234567890", 10), "0123456789…");
        let shown = excerpt("\u{1b}[2J\r\n\u{202e}", 20);
        assert_eq!(shown, r"\u{1b}[2J\r\n\u{202e}");
    }
}
