//! Readings that go forward, several at once, and what they will want next. Pure.

/// Forward readings that are followed at once.
const STREAMS: usize = 8;

/// Readings that go forward.
#[derive(Default)]
pub(super) struct Streams {
    streams: Vec<Stream>,
    clock: u64,
}

struct Stream {
    /// The chunk read last.
    at: usize,
    /// Chunks up to here were asked for.
    until: usize,
    /// How far ahead is asked for; it doubles while the reading goes on.
    window: usize,
    used: u64,
}

impl Streams {
    /// Says whether `chunk` was asked for and not read yet.
    pub(super) fn expect(&self, chunk: usize) -> bool {
        self.streams.iter().any(|stream| (stream.at + 1..stream.until).contains(&chunk))
    }

    /// Notes a read of `chunk` and returns which chunks should be opened ahead.
    pub(super) fn follow(&mut self, chunk: usize, skip: usize, most: usize) -> std::ops::Range<usize> {
        self.clock += 1;
        let used = self.clock;
        let near = |stream: &&mut Stream| (stream.at..=stream.at + skip).contains(&chunk);
        if let Some(stream) = self.streams.iter_mut().find(near) {
            stream.used = used;
            if stream.at == chunk {
                return 0..0;
            }
            stream.at = chunk;
            let start = stream.until.max(chunk + 1);
            // Asked for in halves of the window, not one by one.
            if start > chunk + 1 + stream.window / 2 {
                return 0..0;
            }
            stream.window = (stream.window * 2).min(most);
            stream.until = (chunk + 1 + stream.window).max(start);
            return start..stream.until;
        }
        let stream = Stream { at: chunk, until: chunk + 1, window: 1, used };
        if self.streams.len() < STREAMS {
            self.streams.push(stream);
        } else if let Some(oldest) = self.streams.iter_mut().min_by_key(|stream| stream.used) {
            *oldest = stream;
        }
        0..0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_that_go_forward_are_followed_each_on_its_own() {
        let mut streams = Streams::default();
        let mut follow = |chunk| streams.follow(chunk, 4, 8);
        assert_eq!(follow(10), 0..0);
        assert_eq!(follow(100), 0..0);
        // Further with each step, up to the limit.
        assert_eq!(follow(11), 12..14);
        assert_eq!(follow(11), 0..0);
        assert_eq!(follow(12), 14..17);
        assert_eq!(follow(13), 0..0);
        assert_eq!(follow(14), 17..23);
        assert_eq!(follow(103), 104..106);
        assert_eq!(follow(18), 23..27);
        // Going back is a new reading.
        assert_eq!(follow(3), 0..0);
    }
}
