//! The order in which each table comes after those it refers to.
//!
//! Tables in a circle (a group in which each leads to each) stand together in their original order, after
//! everything that the group refers to. This is Tarjan's algorithm for strongly connected components, with a
//! stack of its own: a chain of references may be as long as there are tables.

/// Returns the places in order, those referred to first, and the circles of more than one table.
///
/// `references[n]` are the places that table `n` refers to. What has no reason to move keeps its place among
/// the others.
pub(super) fn parents_first(references: &[Vec<usize>]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let mut search = Search {
        references,
        met: vec![None; references.len()],
        lowest: vec![0; references.len()],
        open: vec![false; references.len()],
        stack: Vec::new(),
        order: Vec::with_capacity(references.len()),
        cycles: Vec::new(),
        next: 0,
    };
    for table in 0..references.len() {
        if search.met[table].is_none() {
            search.visit(table);
        }
    }
    (search.order, search.cycles)
}

struct Search<'r> {
    references: &'r [Vec<usize>],
    /// When each was met first.
    met: Vec<Option<usize>>,
    /// The earliest met that each leads back to.
    lowest: Vec<usize>,
    /// Whether its group is still open.
    open: Vec<bool>,
    stack: Vec<usize>,
    order: Vec<usize>,
    cycles: Vec<Vec<usize>>,
    next: usize,
}

impl Search<'_> {
    fn visit(&mut self, start: usize) {
        let mut path = vec![(start, 0)];
        self.meet(start);
        while let Some((table, done)) = path.last_mut() {
            let table = *table;
            if let Some(&parent) = self.references[table].get(*done) {
                *done += 1;
                match self.met[parent] {
                    None => {
                        self.meet(parent);
                        path.push((parent, 0));
                    }
                    Some(when) if self.open[parent] => self.lowest[table] = self.lowest[table].min(when),
                    Some(_) => {}
                }
                continue;
            }
            path.pop();
            if let Some((child, _)) = path.last() {
                self.lowest[*child] = self.lowest[*child].min(self.lowest[table]);
            }
            if self.met[table] == Some(self.lowest[table]) {
                self.close(table);
            }
        }
    }

    fn meet(&mut self, table: usize) {
        self.met[table] = Some(self.next);
        self.lowest[table] = self.next;
        self.next += 1;
        self.open[table] = true;
        self.stack.push(table);
    }

    /// Ends the group that `first` was met first of: all that it leads to stands in order already.
    fn close(&mut self, first: usize) {
        let begin = self.stack.iter().rposition(|table| *table == first).unwrap_or(0);
        let mut group = self.stack.split_off(begin);
        group.iter().for_each(|table| self.open[*table] = false);
        group.sort_unstable();
        self.order.extend(&group);
        if group.len() > 1 {
            self.cycles.push(group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first_and_others_keep_their_place() {
        let (order, cycles) = parents_first(&[vec![2], vec![], vec![], vec![0, 1]]);
        assert_eq!(order, [2, 0, 1, 3]);
        assert!(cycles.is_empty());
        assert_eq!(parents_first(&[vec![], vec![], vec![]]).0, [0, 1, 2]);
        assert_eq!(parents_first(&[]).0, [0; 0]);
    }

    #[test]
    fn table_that_refers_to_itself_is_no_circle() {
        let (order, cycles) = parents_first(&[vec![0], vec![0, 1]]);
        assert_eq!((order.as_slice(), cycles.len()), ([0, 1].as_slice(), 0));
    }

    #[test]
    fn circle_stands_together_after_its_parents_and_before_its_children() {
        // 0 -> 1 -> 2 -> 0, 2 -> 4, 3 -> 1
        let (order, cycles) = parents_first(&[vec![1], vec![2], vec![0, 4], vec![1], vec![]]);
        assert_eq!(order, [4, 0, 1, 2, 3]);
        assert_eq!(cycles, [[0, 1, 2]]);
    }

    #[test]
    fn long_chain_does_not_exhaust_the_stack() {
        let chain: Vec<Vec<usize>> =
            (0..200_000).map(|n| if n + 1 < 200_000 { vec![n + 1] } else { vec![] }).collect();
        let (order, _) = parents_first(&chain);
        assert_eq!((order[0], order[199_999]), (199_999, 0));
    }

    proptest::proptest! {
        #[test]
        fn every_parent_outside_of_the_own_circle_comes_before(
            edges in proptest::collection::vec((0usize..12, 0usize..12), 0..30)
        ) {
            let mut references = vec![Vec::new(); 12];
            for (child, parent) in edges {
                references[child].push(parent);
            }
            let (order, cycles) = parents_first(&references);
            let place = |table: usize| order.iter().position(|one| *one == table).unwrap();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            proptest::prop_assert_eq!(sorted, (0..12).collect::<Vec<_>>());
            for (child, parents) in references.iter().enumerate() {
                for parent in parents {
                    let together = cycles.iter().any(|cycle| cycle.contains(&child) && cycle.contains(parent));
                    proptest::prop_assert!(together || child == *parent || place(*parent) < place(child));
                }
            }
        }
    }
}
