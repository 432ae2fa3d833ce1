//! Incremental search for the end of a message head.

/// State of the search.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HeadProgress {
    /// The head is incomplete.
    Partial,
    /// The head ends before this position; body or the next message follows.
    Ends(usize),
    /// A line ends in LF without CR. Recipients disagree whether that ends a line, and RFC 9112
    /// section 2.2 allows to reject it.
    BareLf,
}

/// Scanner that remembers its position, so that a head sent a byte at a time is read once.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScanner {
    seen: usize,
    line: usize,
    /// Start of the second line; 0 while the first one is incomplete.
    second: usize,
}

impl HeadScanner {
    /// Scans the new part of `bytes`, which must start at the same position as in earlier calls.
    pub fn scan(&mut self, bytes: &[u8]) -> HeadProgress {
        let unseen = bytes.get(self.seen..).unwrap_or_default();
        for offset in memchr::memchr_iter(b'\n', unseen) {
            let at = self.seen + offset;
            if at == 0 || bytes.get(at - 1) != Some(&b'\r') {
                return HeadProgress::BareLf;
            }
            if at - 1 == self.line {
                return HeadProgress::Ends(at + 1);
            }
            self.line = at + 1;
            if self.second == 0 {
                self.second = at + 1;
            }
        }
        self.seen = bytes.len();
        HeadProgress::Partial
    }

    /// Number of bytes of empty lines before a request line, which RFC 9112 section 2.2 allows to
    /// ignore. The caller removes them, and the search begins again after them.
    pub fn skip_empty_lines(&mut self, bytes: &[u8]) -> usize {
        let lines = bytes.as_chunks::<2>().0.iter().take_while(|line| *line == b"\r\n");
        let skipped = 2 * lines.count();
        if skipped > 0 {
            *self = Self::default();
        }
        skipped
    }

    /// First line without its line end, once it is complete.
    #[must_use]
    pub fn first_line<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        bytes.get(..self.second.checked_sub(2)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_end_wherever_the_pieces_break() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody";
        for cut in 0..head.len() {
            let mut scanner = HeadScanner::default();
            let first = scanner.scan(&head[..cut]);
            let end = if first == HeadProgress::Partial { scanner.scan(head) } else { first };
            assert_eq!(end, HeadProgress::Ends(head.len() - 4), "cut at {cut}");
        }
    }

    #[test]
    fn knows_the_first_line_as_soon_as_it_has_ended() {
        let mut scanner = HeadScanner::default();
        for (bytes, line) in [
            (&b"GET /"[..], None),
            (b"GET /\r", None),
            (b"GET /\r\n", Some(&b"GET /"[..])),
            (b"GET /\r\nHost: a\r\n", Some(b"GET /")),
        ] {
            assert_eq!(scanner.scan(bytes), HeadProgress::Partial);
            assert_eq!(scanner.first_line(bytes), line);
        }
    }

    #[test]
    fn an_empty_line_in_pieces_hides_no_byte_after_it() {
        let mut scanner = HeadScanner::default();
        assert_eq!(scanner.skip_empty_lines(b"\r"), 0);
        assert_eq!(scanner.scan(b"\r"), HeadProgress::Partial);
        let arrived = b"\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let skipped = scanner.skip_empty_lines(arrived);
        assert_eq!(skipped, 2);
        assert_eq!(scanner.scan(&arrived[skipped..]), HeadProgress::BareLf);
        assert_eq!(HeadScanner::default().skip_empty_lines(b"\r\n\r\nG"), 4);
    }

    #[test]
    fn refuses_bare_lf() {
        for head in [&b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..], b"\n", b"GET / HTTP/1.1\r\n\n"] {
            assert_eq!(HeadScanner::default().scan(head), HeadProgress::BareLf);
        }
    }
}
