//! Reading server-sent events as they come in (WHATWG HTML, section 9.2), as far as ours go: lines
//! `event:` and `data:`, and comments.

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) kind: String,
    pub(crate) data: String,
}

/// Takes bytes in pieces of any size and gives events.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    buffer: Vec<u8>,
    event: Event,
}

/// Bytes without a line's end after which it is not a stream of ours.
const MOST_LINE: usize = 1 << 20;

impl Parser {
    /// Takes a piece in; what is whole by now.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Vec<Event> {
        self.buffer.extend_from_slice(piece);
        let mut events = Vec::new();
        let mut begin = 0;
        while let Some(length) = self.buffer[begin..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.buffer[begin..begin + length]).into_owned();
            begin += length + 1;
            self.line(line.trim_end_matches('\r'), &mut events);
        }
        self.buffer.drain(..begin);
        if self.buffer.len() > MOST_LINE {
            self.buffer.clear();
        }
        events
    }

    fn line(&mut self, line: &str, events: &mut Vec<Event>) {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            if !event.data.is_empty() {
                events.push(event);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.kind),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, data: &str) -> Event {
        Event { kind: kind.into(), data: data.into() }
    }

    #[test]
    fn events_are_whole_however_they_were_cut() {
        let text = b"event: phase\ndata: {\"a\":1}\n\n: still\n\nevent: bytes\r\ndata:x\r\ndata: y\r\n\r\nid: 1\n\n";
        let expected = [event("phase", "{\"a\":1}"), event("bytes", "x\ny")];
        for size in [1, 2, 3, 7, text.len()] {
            let mut parser = Parser::default();
            let found: Vec<Event> =
                text.chunks(size).flat_map(|piece| parser.feed(piece)).collect();
            assert_eq!(found, expected, "{size}");
        }
    }

    #[test]
    fn what_never_ends_is_not_kept() {
        let mut parser = Parser::default();
        for _ in 0..20 {
            assert!(parser.feed(&[b'a'; 100_000]).is_empty());
        }
        assert!(parser.buffer.len() <= MOST_LINE);
    }
}
