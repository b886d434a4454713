//! Which columns of a table stand for each other on the two sides, and which of them tell rows apart.

use dbkeep_postgres::catalog::{Column, Table};

use super::record::Fields;

/// The columns of a table on two sides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pairing {
    /// The fields of the left and the right side, in the same order.
    pub(super) fields: [Fields; 2],
    /// The names of the columns of the key, and of the others that are compared, as the right side has them.
    pub(super) key: Vec<Told>,
    pub(super) rest: Vec<Told>,
    /// Whether they are declared to tell rows apart; else all columns that are compared do.
    pub(super) has_key: bool,
    /// Columns that only the left or only the right side has.
    pub(super) left_only: Vec<String>,
    pub(super) right_only: Vec<String>,
    /// Columns with another name on the right.
    pub(super) renamed: Vec<(String, String)>,
    /// The rows of both sides have the same columns at the same places.
    pub(super) is_aligned: bool,
}

/// A column as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) name: String,
    /// Its values are whole numbers on both sides.
    pub(super) is_integer: bool,
}

/// Pairs the columns of a table.
pub(super) fn pair(left: &Table, right: &Table) -> Pairing {
    let (lefts, rights) = (stored(left), stored(right));
    let pairs = pairs(&lefts, &rights);
    let key = common_key(left, right, &lefts, &rights, &pairs);
    let has_key = key.is_some();
    let key = key.unwrap_or_default();
    let is_key = |pair: &(usize, usize)| key.contains(pair);
    let rest: Vec<(usize, usize)> = pairs.iter().filter(|pair| !is_key(pair)).copied().collect();
    // Without a key all that is compared tells rows apart.
    let (key, rest) = if has_key { (key, rest) } else { (rest, Vec::new()) };
    let places = |pairs: &[(usize, usize)], side: usize| -> Vec<usize> {
        pairs.iter().map(|pair| if side == 0 { pair.0 } else { pair.1 }).collect()
    };
    let fields = [(0, lefts.len()), (1, rights.len())].map(|(side, columns)| Fields {
        columns,
        key: places(&key, side),
        rest: places(&rest, side),
    });
    let told = |pairs: &[(usize, usize)]| -> Vec<Told> {
        let one = |pair: &(usize, usize)| Told {
            name: rights[pair.1].name.clone(),
            is_integer: is_integer(lefts[pair.0]) && is_integer(rights[pair.1]),
        };
        pairs.iter().map(one).collect()
    };
    let only = |columns: &[&Column], is_paired: &dyn Fn(usize) -> bool| -> Vec<String> {
        let alone = columns.iter().enumerate().filter(|(place, _)| !is_paired(*place));
        alone.map(|(_, column)| column.name.clone()).collect()
    };
    let renamed = pairs.iter().filter(|pair| lefts[pair.0].name != rights[pair.1].name);
    Pairing {
        fields,
        key: told(&key),
        rest: told(&rest),
        has_key,
        left_only: only(&lefts, &|place| pairs.iter().any(|pair| pair.0 == place)),
        right_only: only(&rights, &|place| pairs.iter().any(|pair| pair.1 == place)),
        renamed: renamed.map(|pair| (lefts[pair.0].name.clone(), rights[pair.1].name.clone())).collect(),
        is_aligned: lefts.len() == rights.len()
            && pairs.len() == lefts.len()
            && pairs.iter().all(|pair| pair.0 == pair.1),
    }
}

fn stored(table: &Table) -> Vec<&Column> {
    table.columns.iter().filter(|column| !column.generated).collect()
}

/// Returns the places of columns that stand for each other: those of one name, and of the others those that are the same
/// to the server, which keeps the number of a column that gets another name.
fn pairs(lefts: &[&Column], rights: &[&Column]) -> Vec<(usize, usize)> {
    let by_name = |left: &Column| rights.iter().position(|right| right.name == left.name);
    let is_free = |right: &Column| lefts.iter().all(|left| left.name != right.name);
    let by_number = |left: &Column| {
        rights.iter().position(|right| {
            is_free(right)
                && left.number != 0
                && right.number == left.number
                && right.type_name == left.type_name
        })
    };
    let pair = |(place, left): (usize, &&Column)| Some((place, by_name(left).or_else(|| by_number(left))?));
    lefts.iter().enumerate().filter_map(pair).collect()
}

/// Returns the columns of the key, when both sides have the same one.
fn common_key(
    left: &Table,
    right: &Table,
    lefts: &[&Column],
    rights: &[&Column],
    pairs: &[(usize, usize)],
) -> Option<Vec<(usize, usize)>> {
    let (one, other) = (left.key.as_ref()?, right.key.as_ref()?);
    let place = |columns: &[&Column], name: &String| columns.iter().position(|column| column.name == *name);
    let of_left = one.columns.iter().map(|name| {
        let left = place(lefts, name)?;
        pairs.iter().find(|pair| pair.0 == left).copied()
    });
    let of_left: Vec<(usize, usize)> = of_left.collect::<Option<_>>()?;
    let of_right: Vec<usize> = other.columns.iter().map(|name| place(rights, name)).collect::<Option<_>>()?;
    let is_same = of_right.len() == of_left.len() && of_left.iter().all(|pair| of_right.contains(&pair.1));
    (is_same && !of_left.is_empty()).then_some(of_left)
}

fn is_integer(column: &Column) -> bool {
    matches!(column.type_name.as_str(), "smallint" | "integer" | "bigint" | "oid")
}

#[cfg(test)]
mod tests {
    use dbkeep_postgres::catalog::Key;

    use super::*;

    fn table(columns: &[(&str, i16, &str)], key: &[&str]) -> Table {
        let column = |(name, number, type_name): &(&str, i16, &str)| Column {
            name: (*name).to_owned(),
            number: *number,
            type_name: (*type_name).to_owned(),
            ..Column::default()
        };
        let columns_of_key: Vec<String> = key.iter().map(|name| (*name).to_owned()).collect();
        let key = (!key.is_empty()).then_some(Key { columns: columns_of_key, ..Key::default() });
        Table { columns: columns.iter().map(column).collect(), key, ..Table::default() }
    }

    #[test]
    fn columns_are_paired_by_name_wherever_they_stand_and_the_others_named() {
        let left = table(&[("id", 1, "integer"), ("a", 2, "text"), ("gone", 3, "text")], &["id"]);
        let right = table(&[("new", 1, "text"), ("a", 2, "text"), ("id", 3, "integer")], &["id"]);
        let found = pair(&left, &right);
        assert_eq!(found.fields[0], Fields { columns: 3, key: vec![0], rest: vec![1] });
        assert_eq!(found.fields[1], Fields { columns: 3, key: vec![2], rest: vec![1] });
        assert_eq!((found.left_only, found.right_only), (vec!["gone".to_owned()], vec!["new".to_owned()]));
        assert_eq!((found.renamed, found.is_aligned, found.has_key), (vec![], false, true));
        assert_eq!(found.key, [Told { name: "id".to_owned(), is_integer: true }]);
    }

    #[test]
    fn column_that_only_got_another_name_is_still_compared() {
        let left = table(&[("id", 1, "integer"), ("a", 2, "text")], &["id"]);
        let right = table(&[("number", 1, "integer"), ("a", 2, "text")], &["number"]);
        let found = pair(&left, &right);
        assert_eq!(found.renamed, [("id".to_owned(), "number".to_owned())]);
        assert!(found.is_aligned && found.has_key);
        // With another type it is another column.
        let right = table(&[("number", 1, "text"), ("a", 2, "text")], &["number"]);
        let found = pair(&left, &right);
        assert_eq!((found.renamed.len(), found.is_aligned, found.has_key), (0, false, false));
        // Two that changed their names with each other are what they are called.
        let swapped = table(&[("a", 1, "text"), ("id", 2, "integer")], &["id"]);
        let found = pair(&left, &swapped);
        assert_eq!((found.renamed.len(), found.is_aligned), (0, false));
    }

    #[test]
    fn rows_are_told_apart_by_everything_where_the_sides_have_not_the_same_key() {
        let columns = [("a", 1, "integer"), ("b", 2, "integer")];
        let (one, other, none) = (table(&columns, &["a"]), table(&columns, &["b"]), table(&columns, &[]));
        for (left, right) in [(&one, &other), (&one, &none), (&none, &none)] {
            let found = pair(left, right);
            assert!(!found.has_key);
            assert_eq!((found.fields[0].key.clone(), found.fields[0].rest.clone()), (vec![0, 1], vec![]));
        }
        let both = [table(&columns, &["a", "b"]), table(&columns, &["b", "a"])];
        assert!(pair(&both[0], &both[1]).has_key, "the order of an index does not matter");
    }
}
