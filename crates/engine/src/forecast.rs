//! Which pages of an image SQLite will read next.
//!
//! A walk over a b-tree reads an interior page and then, one after the other, the pages that it names. So each
//! interior page that goes by is a list of what comes, and once a list is being read in order, what is further
//! down in it can be fetched. Rows are read from the first page to the last, and the check of a tree goes from the
//! last to the first. A wrong forecast costs time, never anything else: pages that look like
//! interior pages and are not, or lists that are left in the middle.

use dbkeep_sqlite::page;

/// Lists that are followed at once: the levels of a tree, and some more for the indexes beside a table.
const LISTS: usize = 12;
/// How many pages of a list may be skipped: SQLite has them in its own cache.
const SKIP: usize = 4;
/// Bytes ahead in a list at first; doubled with each step. One that follows another goes on as that did.
const FIRST: usize = 64 << 10;
/// Interior pages named by an interior page are as far from each other as all their leaves.
const INTERIORS: usize = 2;

/// Follows the reading of one image.
#[derive(Debug)]
pub(crate) struct Forecast {
    /// Bytes ahead in a list at most.
    most: usize,
    /// Bytes at the end of each page that SQLite leaves alone.
    reserved: usize,
    lists: Vec<List>,
    clock: u64,
}

/// The pages named by one interior page, in the order in which they are read.
#[derive(Debug)]
struct List {
    /// The page that names them.
    of: u32,
    pages: Vec<u32>,
    /// How many were read.
    read: usize,
    /// How many were asked for.
    asked: usize,
    /// How many pages ahead are asked for.
    window: usize,
    /// Whether the pages are interior pages themselves.
    is_upper: bool,
    /// Whether they are read from the last to the first.
    is_backward: bool,
    used: u64,
}

impl List {
    /// Returns where `page` is, when it is about the next one. The first one that is read says from which end.
    fn place(&mut self, page: u32) -> Option<usize> {
        let is_it = |next: &u32| *next == page;
        let near = self.pages.iter().skip(self.read).take(SKIP).position(is_it);
        if self.read == 0 {
            let from_end = self.pages.iter().rev().take(SKIP).position(is_it);
            if from_end.is_some_and(|from_end| near.is_none_or(|near| from_end < near)) {
                self.turn_round();
                return from_end;
            }
        }
        near.map(|near| self.read + near)
    }

    fn turn_round(&mut self) {
        self.pages.reverse();
        self.is_backward = !self.is_backward;
        self.asked = 0;
    }

    /// Says whether `page` is the one that was read last.
    fn is_at(&self, page: u32) -> bool {
        self.read.checked_sub(1).is_some_and(|at| self.pages[at] == page)
    }
}

impl Forecast {
    /// Begins with nothing expected; `most` bytes are asked for ahead.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, reserved: 0, lists: Vec::new(), clock: 0 }
    }

    /// Notes that a page is read now. Returns the number of the list in which it was expected.
    pub(crate) fn step(&mut self, page: u32, size: usize) -> Option<usize> {
        let (most, first) = ((self.most / size).max(1), (FIRST / size).max(1));
        let (number, list, at) = self
            .lists
            .iter_mut()
            .enumerate()
            .find_map(|(number, list)| list.place(page).map(|at| (number, list, at)))?;
        self.clock += 1;
        list.used = self.clock;
        list.read = at + 1;
        list.window = if list.is_upper { INTERIORS } else { (list.window * 2).max(first).min(most) };
        Some(number)
    }

    /// Returns the pages of a list that should be asked for now.
    pub(crate) fn due(&mut self, number: usize) -> &[u32] {
        let list = &mut self.lists[number];
        list.asked = list.asked.max(list.read);
        // Asked for in halves of the window, not one by one.
        if list.asked > list.read + list.window / 2 {
            return &[];
        }
        let end = (list.read + list.window).min(list.pages.len());
        list.pages.get(list.asked..end).unwrap_or(&[])
    }

    /// Notes how many of the pages that were due have been asked for.
    pub(crate) fn asked(&mut self, number: usize, count: usize) {
        self.lists[number].asked += count;
    }

    /// Returns the interior page that follows a list which is asked for nearly to its end, unless it is known.
    pub(crate) fn next_interior(&self, number: usize) -> Option<u32> {
        let list = &self.lists[number];
        if list.is_upper || list.asked + list.window / 2 < list.pages.len() {
            return None;
        }
        let above = self.lists.iter().find(|above| above.is_upper && above.is_at(list.of))?;
        let next = *above.pages.get(above.read)?;
        self.lists.iter().all(|known| known.of != next).then_some(next)
    }

    /// Takes a page that is read now, or will be when the list `after` is read to its end. For an interior page that
    /// was not known, returns the number of its list.
    pub(crate) fn learn(&mut self, page: u32, bytes: &[u8], after: Option<usize>) -> Option<usize> {
        if page == 1 {
            self.reserved = bytes.get(20).copied().map_or(0, usize::from);
        }
        let kind = bytes.get(if page == 1 { 100 } else { 0 }).copied().and_then(page::Kind::of);
        let usable = bytes.len().checked_sub(self.reserved).filter(|usable| *usable >= 480)?;
        let parsed = kind.filter(|kind| kind.is_interior()).and(page::parse(bytes, usable, page == 1))?;
        if after.is_none() {
            for above in self.lists.iter_mut().filter(|above| above.is_at(page)) {
                above.is_upper = true;
            }
        }
        // Foreseen and not begun: what was asked for stays asked for.
        if self.lists.iter().any(|list| list.of == page && list.read == 0) {
            return None;
        }
        // The walk goes on as it went.
        let window = after.map_or(0, |after| self.lists[after].window);
        self.lists.retain(|list| list.of != page);
        if self.lists.len() >= LISTS
            && let Some(oldest) = (0..self.lists.len()).min_by_key(|number| self.lists[*number].used)
        {
            self.lists.swap_remove(oldest);
        }
        self.clock += 1;
        let pages = parsed.children().collect();
        let mut list = List {
            of: page,
            pages,
            read: 0,
            asked: 0,
            window,
            is_upper: false,
            is_backward: false,
            used: self.clock,
        };
        let is_next_in = |above: &List| above.pages.get(above.read) == Some(&page);
        if after.is_some() && self.lists.iter().any(|above| above.is_backward && is_next_in(above)) {
            list.turn_round();
        }
        self.lists.push(list);
        Some(self.lists.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 4096;

    /// Makes a sound interior page of a table.
    fn interior(children: &[u32]) -> Vec<u8> {
        let (last, cells) = children.split_last().unwrap();
        let mut page = vec![0; SIZE];
        let content = SIZE - 5 * cells.len();
        page[0] = 5;
        page[3..5].copy_from_slice(&u16::try_from(cells.len()).unwrap().to_be_bytes());
        page[5..7].copy_from_slice(&u16::try_from(content).unwrap().to_be_bytes());
        page[8..12].copy_from_slice(&last.to_be_bytes());
        for (number, child) in cells.iter().enumerate() {
            let at = content + 5 * number;
            page[12 + 2 * number..14 + 2 * number].copy_from_slice(&u16::try_from(at).unwrap().to_be_bytes());
            page[at..at + 4].copy_from_slice(&child.to_be_bytes());
            page[at + 4] = 1;
        }
        page
    }

    /// Reads a page and returns what is asked for then.
    fn read(forecast: &mut Forecast, page: u32) -> Vec<u32> {
        let Some(list) = forecast.step(page, SIZE) else { return Vec::new() };
        let due = forecast.due(list).to_vec();
        forecast.asked(list, due.len());
        due
    }

    #[test]
    fn list_is_asked_for_once_it_is_read_in_order_and_never_twice() {
        let mut forecast = Forecast::new(64 * SIZE);
        let children: Vec<u32> = (0..200).map(|number| 1000 - number * 3).collect();
        assert_eq!(forecast.learn(7, &interior(&children), None), Some(0));
        // Another one of them alone is no walk.
        assert_eq!(read(&mut forecast, children[150]), [0; 0]);
        let mut asked = Vec::new();
        for (number, child) in children.iter().enumerate() {
            asked.extend(read(&mut forecast, *child));
            let read = number + 1;
            assert!(read >= 199 || asked.len() > number, "{number}");
            assert!(asked.len() <= number + 64);
        }
        assert_eq!(asked, children[1..]);
        assert_eq!(read(&mut forecast, children[0]), [0; 0]);
    }

    #[test]
    fn tree_that_is_read_from_its_end_is_foreseen_too() {
        let mut forecast = Forecast::new(64 * SIZE);
        forecast.learn(2, &interior(&[10, 20, 30]), None);
        read(&mut forecast, 30);
        let leaves: Vec<u32> = (300..350).collect();
        let list = forecast.learn(30, &interior(&leaves), None).unwrap();
        let mut asked = Vec::new();
        for leaf in leaves.iter().rev() {
            asked.extend(read(&mut forecast, *leaf));
        }
        assert_eq!(asked, (300..349).rev().collect::<Vec<_>>());
        assert_eq!(forecast.next_interior(list), Some(20));
        let next = interior(&(200..250).collect::<Vec<_>>());
        let next = forecast.learn(20, &next, Some(list)).unwrap();
        assert_eq!(forecast.due(next), (200..250).rev().collect::<Vec<_>>());
    }

    #[test]
    fn what_follows_a_list_is_foreseen() {
        let mut forecast = Forecast::new(64 * SIZE);
        forecast.learn(2, &interior(&[10, 20, 30]), None);
        read(&mut forecast, 10);
        let leaves: Vec<u32> = (100..150).collect();
        let list = forecast.learn(10, &interior(&leaves), None).unwrap();
        for leaf in &leaves[..10] {
            read(&mut forecast, *leaf);
        }
        assert_eq!(forecast.next_interior(list), Some(20));
        let following: Vec<u32> = (200..350).collect();
        let next = forecast.learn(20, &interior(&following), Some(list)).unwrap();
        // As far as the list before it.
        assert_eq!(forecast.due(next), &following[..64]);
        forecast.asked(next, 64);
        assert_eq!(forecast.next_interior(list), None);
        // When it is read, it is known already, and goes on where it was.
        assert_eq!(read(&mut forecast, 20), [0; 0]);
        assert_eq!(forecast.learn(20, &interior(&following), None), None);
        let asked: Vec<u32> = following[..40].iter().flat_map(|leaf| read(&mut forecast, *leaf)).collect();
        assert_eq!(asked[0], following[64]);
    }

    #[test]
    fn pages_that_are_no_interior_pages_tell_nothing() {
        let mut forecast = Forecast::new(1 << 20);
        let mut page = interior(&[1, 2, 3]);
        page[3] = 0xff;
        assert_eq!(forecast.learn(9, &page, None), None);
        page[0] = 13;
        assert_eq!(forecast.learn(9, &page, None), None);
        assert_eq!(forecast.learn(9, &[], None), None);
        assert_eq!(forecast.step(1, SIZE), None);
    }
}
