//! The order in which each table comes after those that it refers to.
//!
//! Pure. Tables in a circle (each leads to each) stand together in their original order, after everything that the
//! circle refers to. What has no reason to move keeps its place.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::catalog::{Name, Table};

/// Returns the places of tables, those referred to first, and the circles of more than one table.
///
/// Tables refer to each other by foreign keys. Partitions and children do not have to come after their parents to be
/// filled; that a table which refers to a partitioned one comes after its partitions as well, and that the partitions
/// of one that refers come after what it refers to, is seen to here: their rows are the rows of the parent.
pub fn of_tables(tables: &[Table]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let places: HashMap<&Name, usize> =
        tables.iter().enumerate().map(|(place, table)| (&table.name, place)).collect();
    let mut references: Vec<Vec<usize>> = vec![Vec::new(); tables.len()];
    for (place, table) in tables.iter().enumerate() {
        let named = table.foreign_keys.iter().filter_map(|key| places.get(&key.table).copied());
        references[place].extend(named);
    }
    let partitions: Vec<(usize, usize)> = tables
        .iter()
        .enumerate()
        .filter(|(_, table)| table.partition)
        .flat_map(|(place, table)| table.parents.iter().map(move |parent| (place, parent)))
        .filter_map(|(place, parent)| Some((place, *places.get(parent)?)))
        .collect();
    // A row of the parent is there when its partitions have theirs, so who waits for the parent waits for them: the
    // parent comes after its partitions, and they after what it refers to.
    let mut by_depth = partitions.clone();
    by_depth.sort_by_key(|(_, parent)| depth(&partitions, *parent));
    for (partition, parent) in by_depth {
        let inherited = references[parent].clone();
        references[partition].extend(inherited.into_iter().filter(|place| *place != parent));
    }
    for (partition, parent) in partitions {
        references[parent].push(partition);
    }
    parents_first(&references)
}

/// Returns how many partitioned tables stand above one.
fn depth(partitions: &[(usize, usize)], table: usize) -> usize {
    let parent = |table: usize| {
        partitions.iter().find(|(partition, _)| *partition == table).map(|(_, parent)| *parent)
    };
    // A catalog that was made up may say that tables are partitions of each other.
    std::iter::successors(parent(table), |table| parent(*table)).take(partitions.len()).count()
}

/// Returns the places in order, those referred to first, and the circles of more than one table.
///
/// `references[n]` are the places that table `n` refers to. Among those that may stand next, the one that stood first
/// does.
pub fn parents_first(references: &[Vec<usize>]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let group_of = groups(references);
    let mut members: Vec<Vec<usize>> = Vec::new();
    for (place, group) in group_of.iter().enumerate() {
        members.resize_with(members.len().max(group + 1), Vec::new);
        members[*group].push(place);
    }
    // How many other groups each waits for, and which wait for it.
    let mut waits = vec![0_usize; members.len()];
    let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); members.len()];
    for (place, parents) in references.iter().enumerate() {
        for parent in parents.iter().filter(|parent| group_of[**parent] != group_of[place]) {
            waits[group_of[place]] += 1;
            waiting[group_of[*parent]].push(group_of[place]);
        }
    }
    let ready = members.iter().enumerate().filter(|(group, _)| waits[*group] == 0);
    let mut ready: BinaryHeap<_> = ready.map(|(group, members)| Reverse((members[0], group))).collect();
    let mut order = Vec::with_capacity(references.len());
    while let Some(Reverse((_, group))) = ready.pop() {
        order.extend(&members[group]);
        for &next in &waiting[group] {
            waits[next] -= 1;
            if waits[next] == 0 {
                ready.push(Reverse((members[next][0], next)));
            }
        }
    }
    let mut cycles: Vec<Vec<usize>> = members.into_iter().filter(|members| members.len() > 1).collect();
    cycles.sort();
    (order, cycles)
}

/// Returns a number for each table; tables in a circle have the same.
///
/// This is Gabow's way to find strongly connected components, with a stack of its own: a chain of references may be as
/// long as there are tables.
fn groups(references: &[Vec<usize>]) -> Vec<usize> {
    const NONE: usize = usize::MAX;
    let mut met = vec![NONE; references.len()];
    let mut group = vec![NONE; references.len()];
    let (mut next, mut groups) = (0, 0);
    // Tables without a group yet, as they were met; and those of them that may be the first of their groups.
    let (mut open, mut firsts): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    for start in 0..references.len() {
        let mut path = if met[start] == NONE { vec![(start, 0)] } else { continue };
        while let Some((table, done)) = path.last_mut() {
            let table = *table;
            if *done == 0 {
                met[table] = next;
                next += 1;
                open.push(table);
                firsts.push(table);
            }
            let parent = references[table].get(*done).copied();
            *done += 1;
            match parent {
                Some(parent) if met[parent] == NONE => path.push((parent, 0)),
                Some(parent) if group[parent] == NONE => {
                    // It leads back: all that was met since belongs together.
                    while firsts.last().is_some_and(|first| met[*first] > met[parent]) {
                        firsts.pop();
                    }
                }
                Some(_) => {}
                None => {
                    path.pop();
                    if firsts.last() == Some(&table) {
                        firsts.pop();
                        while let Some(member) = open.pop() {
                            group[member] = groups;
                            if member == table {
                                break;
                            }
                        }
                        groups += 1;
                    }
                }
            }
        }
    }
    group
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::ForeignKey;

    #[test]
    fn parents_come_first_and_others_keep_their_place() {
        let (order, cycles) = parents_first(&[vec![2], vec![], vec![], vec![0, 1]]);
        assert_eq!(order, [1, 2, 0, 3]);
        assert!(cycles.is_empty());
        assert_eq!(parents_first(&[vec![], vec![], vec![]]).0, [0, 1, 2]);
        assert_eq!(parents_first(&[]).0, [0; 0]);
    }

    #[test]
    fn table_that_refers_to_itself_or_twice_to_another_is_no_circle() {
        let (order, cycles) = parents_first(&[vec![0, 1, 1], vec![1]]);
        assert_eq!((order.as_slice(), cycles.len()), ([1, 0].as_slice(), 0));
    }

    #[test]
    fn circle_stands_together_after_its_parents_and_before_its_children() {
        // 0 -> 1 -> 2 -> 0, 2 -> 4, 3 -> 1, and another circle of 5 and 6.
        let (order, cycles) =
            parents_first(&[vec![1], vec![2], vec![0, 4], vec![1], vec![], vec![6], vec![5]]);
        assert_eq!(order, [4, 0, 1, 2, 3, 5, 6]);
        assert_eq!(cycles, [vec![0, 1, 2], vec![5, 6]]);
    }

    #[test]
    fn long_chain_does_not_exhaust_the_stack() {
        let chain: Vec<Vec<usize>> =
            (0..200_000).map(|n| if n + 1 < 200_000 { vec![n + 1] } else { vec![] }).collect();
        let (order, _) = parents_first(&chain);
        assert_eq!((order[0], order[199_999]), (199_999, 0));
    }

    fn table(name: &str, refers: &[&str], partition_of: Option<&str>) -> Table {
        let name_of = |name: &str| Name { schema: "public".to_owned(), name: name.to_owned() };
        let key = |other: &&str| ForeignKey { table: name_of(other), ..ForeignKey::default() };
        Table {
            name: name_of(name),
            foreign_keys: refers.iter().map(key).collect(),
            parents: partition_of.map(name_of).into_iter().collect(),
            partition: partition_of.is_some(),
            ..Table::default()
        }
    }

    fn names(tables: &[Table]) -> (Vec<&str>, usize) {
        let (order, cycles) = of_tables(tables);
        (order.into_iter().map(|place| tables[place].name.name.as_str()).collect(), cycles.len())
    }

    #[test]
    fn tables_of_an_application_are_in_the_order_in_which_they_can_be_filled() {
        let tables = [
            table("action_items", &["sessions", "users"], None),
            table("patient_strategies", &["patients"], None),
            table("patients", &["users"], None),
            table("sessions", &["patients"], None),
            table("users", &["elsewhere"], None),
        ];
        assert_eq!(
            names(&tables),
            (vec!["users", "patients", "patient_strategies", "sessions", "action_items"], 0)
        );
    }

    #[test]
    fn partitions_stand_where_their_parent_does() {
        let tables = [
            table("a_refers", &["orders"], None),
            table("b_part", &[], Some("b_half")),
            table("b_half", &[], Some("orders")),
            table("orders", &["users", "orders"], None),
            table("users", &[], None),
        ];
        assert_eq!(names(&tables), (vec!["users", "b_part", "b_half", "orders", "a_refers"], 0));
    }

    proptest! {
        #[test]
        fn every_parent_outside_of_the_own_circle_comes_before(
            edges in prop::collection::vec((0_usize..12, 0_usize..12), 0..30)
        ) {
            let mut references = vec![Vec::new(); 12];
            for (child, parent) in edges {
                references[child].push(parent);
            }
            let leads = |from: usize, to: usize| {
                let (mut seen, mut left) = ([false; 12], references[from].clone());
                while let Some(table) = left.pop() {
                    if !std::mem::replace(&mut seen[table], true) {
                        left.extend(&references[table]);
                    }
                }
                seen[to]
            };
            let (order, cycles) = parents_first(&references);
            let place = |table: usize| order.iter().position(|one| *one == table).unwrap();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..12).collect::<Vec<_>>());
            for one in 0..12 {
                for other in (0..12).filter(|other| *other != one) {
                    let together = leads(one, other) && leads(other, one);
                    prop_assert_eq!(cycles.iter().any(|cycle| cycle.contains(&one) && cycle.contains(&other)), together);
                    prop_assert!(together || !leads(one, other) || place(other) < place(one));
                }
            }
            // What refers to nothing and is referred to by nothing, and all that may, stands as it stood.
            let again: Vec<Vec<usize>> = order
                .iter()
                .map(|table| references[*table].iter().map(|parent| place(*parent)).collect())
                .collect();
            prop_assert_eq!(parents_first(&again).0, (0..12).collect::<Vec<_>>(), "an order that is right stays");
        }
    }
}
