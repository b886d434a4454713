//! A file of a snapshot as a row of chunks, wherever its chunks are.

use std::ops::Range;

use crate::Id;
use crate::write::root;

/// A file, or a file in parts, as a row of chunks. Chunks may differ in length: stock tools cut by content.
#[derive(Clone)]
pub struct Image {
    size: u64,
    ids: Vec<Id>,
    lengths: Lengths,
    trees: Vec<Id>,
}

/// How long chunks are.
#[derive(Clone)]
enum Lengths {
    /// All but the last, which may be shorter, have this length; so no list is needed.
    Equal(u32),
    /// Where each ends.
    Ends(Vec<u64>),
}

/// Collects chunks from front to back.
#[derive(Default)]
pub(super) struct ImageBuilder {
    ids: Vec<Id>,
    ends: Vec<u64>,
    size: u64,
    /// The length of all chunks so far, while they have one.
    equal: Option<u32>,
    /// The last chunk was shorter: one behind it makes the lengths unequal.
    is_short: bool,
    trees: Vec<Id>,
}

impl ImageBuilder {
    pub(super) fn push(&mut self, id: Id, length: u32) {
        if self.ids.is_empty() {
            self.equal = Some(length);
        } else if self.is_short || self.equal.is_some_and(|equal| length > equal) {
            self.become_unequal();
        }
        self.is_short = self.equal.is_some_and(|equal| length < equal);
        self.ids.push(id);
        self.size += u64::from(length);
        if self.equal.is_none() {
            self.ends.push(self.size);
        }
    }

    fn become_unequal(&mut self) {
        if let Some(equal) = self.equal.take() {
            let count = self.ids.len() as u64;
            self.ends = (1..=count).map(|count| (count * u64::from(equal)).min(self.size)).collect();
        }
    }

    /// Notes a directory that the chunks are named in.
    pub(super) fn push_tree(&mut self, tree: Id) {
        self.trees.push(tree);
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn finish(self) -> Image {
        let lengths = match self.equal {
            Some(equal) => Lengths::Equal(equal),
            None if self.ids.is_empty() => Lengths::Equal(1),
            None => Lengths::Ends(self.ends),
        };
        Image { size: self.size, ids: self.ids, lengths, trees: self.trees }
    }
}

impl Image {
    /// Returns the length, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the number of chunks.
    pub fn chunks(&self) -> usize {
        self.ids.len()
    }

    /// Returns the names of the chunks in order.
    pub fn ids(&self) -> &[Id] {
        &self.ids
    }

    /// Returns the directories that hold the parts, the one of all parts first; none for an image in one file.
    pub fn trees(&self) -> &[Id] {
        &self.trees
    }

    /// Returns the length of every chunk but the last, in bytes; `None` when they differ, or for an empty image.
    pub fn chunk_size(&self) -> Option<u32> {
        match self.lengths {
            Lengths::Equal(length) if !self.ids.is_empty() => Some(length),
            _ => None,
        }
    }

    /// Returns the SHA-256 over the ordered chunk ids.
    pub fn root(&self) -> Id {
        root(self.ids.iter())
    }

    /// Returns the stretches that are not chunks of zeros, as the names of the chunks tell; none where chunks differ in
    /// length, because then they do not tell.
    pub fn stretches_with_data(&self) -> impl Iterator<Item = Range<u64>> {
        let zeros = self.chunk_size().map(|length| Id::of(&vec![0; length as usize]));
        let is_data = move |chunk: &usize| zeros.is_some_and(|zeros| self.ids[*chunk] != zeros);
        let mut chunk = 0;
        std::iter::from_fn(move || {
            let first = (chunk..self.ids.len()).find(&is_data)?;
            chunk = (first..self.ids.len()).find(|chunk| !is_data(chunk)).unwrap_or(self.ids.len());
            let (last, length) = self.span(chunk - 1);
            Some(self.span(first).0..last + u64::from(length))
        })
    }

    /// Returns where a chunk begins and its length. Panics when there is no such chunk.
    pub fn span(&self, chunk: usize) -> (u64, u32) {
        assert!(chunk < self.ids.len(), "chunk {chunk} of {}", self.ids.len());
        let (start, end) = match &self.lengths {
            Lengths::Equal(length) => {
                let start = chunk as u64 * u64::from(*length);
                (start, (start + u64::from(*length)).min(self.size))
            }
            Lengths::Ends(ends) => (chunk.checked_sub(1).map_or(0, |before| ends[before]), ends[chunk]),
        };
        (start, u32::try_from(end - start).expect("a chunk's length was given as a u32"))
    }

    /// Returns the chunk that holds the byte at `offset`; `None` at or behind the end.
    pub fn chunk_at(&self, offset: u64) -> Option<usize> {
        if offset >= self.size {
            return None;
        }
        match &self.lengths {
            Lengths::Equal(length) => usize::try_from(offset / u64::from(*length)).ok(),
            Lengths::Ends(ends) => Some(ends.partition_point(|end| *end <= offset)),
        }
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Image({} bytes in {} chunks)", self.size, self.ids.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(lengths: &[u32]) -> Image {
        let mut builder = ImageBuilder::default();
        for (number, length) in lengths.iter().enumerate() {
            builder.push(Id::of(&number.to_le_bytes()), *length);
        }
        builder.finish()
    }

    #[test]
    fn spans_follow_each_other_whatever_the_lengths() {
        for lengths in [
            &[][..],
            &[7],
            &[5, 5, 5],
            &[5, 5, 3],
            &[5, 3, 5],
            &[5, 3, 3],
            &[3, 5],
            &[5, 5, 3, 5, 5],
            &[1, 2, 3, 4],
            &[4, 4, 9, 1],
        ] {
            let image = image(lengths);
            let mut offset = 0;
            for (chunk, length) in lengths.iter().enumerate() {
                assert_eq!(image.span(chunk), (offset, *length), "{lengths:?}");
                for byte in offset..offset + u64::from(*length) {
                    assert_eq!(image.chunk_at(byte), Some(chunk), "{lengths:?}");
                }
                offset += u64::from(*length);
            }
            assert_eq!((image.size(), image.chunk_at(offset)), (offset, None));
        }
        assert_eq!(image(&[5, 5, 3]).chunk_size(), Some(5));
        assert_eq!(image(&[5, 3, 5]).chunk_size(), None);
        assert_eq!(image(&[]).chunk_size(), None);
    }

    #[test]
    fn stretches_with_data_leave_out_the_zeros_that_names_tell_of() {
        let stretches = |chunks: &[&[u8]]| {
            let mut builder = ImageBuilder::default();
            chunks.iter().for_each(|chunk| builder.push(Id::of(chunk), u32::try_from(chunk.len()).unwrap()));
            builder.finish().stretches_with_data().collect::<Vec<_>>()
        };
        let (zeros, data) = (&[0; 5][..], &[1; 5][..]);
        assert_eq!(stretches(&[]), []);
        assert_eq!(stretches(&[zeros, zeros]), []);
        assert_eq!(stretches(&[data, zeros, data, data, &[0; 3]]), [0..5, 10..23]);
        assert_eq!(stretches(&[zeros, data, zeros, data, data]), [5..10, 15..25]);
        assert_eq!(stretches(&[data, zeros, &[0; 9]]), []);
    }
}
