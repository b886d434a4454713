//! What somebody who mistyped a word may have meant.

/// Returns the candidate nearest to `word`, when one is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Returns how many letters must be inserted, removed, replaced or exchanged with their neighbour.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.to_lowercase().chars().collect();
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (row, letter) in left.iter().enumerate() {
        let mut present = vec![row + 1];
        for (column, other) in right.iter().enumerate() {
            let replaced = previous[column] + usize::from(letter != other);
            let mut least = replaced.min(previous[column + 1] + 1).min(present[column] + 1);
            let exchanged = row > 0 && column > 0 && *letter == right[column - 1] && left[row - 1] == *other;
            if exchanged {
                least = least.min(before[column - 1] + 1);
            }
            present.push(least);
        }
        before = std::mem::replace(&mut previous, present);
    }
    previous[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_word_is_found_and_a_far_one_is_not() {
        let keys = ["location", "password-file", "password-command"];
        assert_eq!(nearest("lcoation", keys), Some("location"));
        assert_eq!(nearest("password_file", keys), Some("password-file"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("", "abc"), 3);
    }
}
