//! Medians, and ratios of pairs.

use dbkeep_testkit::process::Cost;

/// Values of repeated runs.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct Sample(pub(crate) Vec<f64>);

impl Sample {
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Returns the middle value; the mean of the two middle ones of an even number.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// Returns the value that was added last.
    pub(crate) fn last(&self) -> Option<f64> {
        self.0.last().copied()
    }

    /// Returns the largest value.
    pub(crate) fn largest(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::max)
    }

    /// Returns the median of the ratios of runs that stood side by side: a machine that
    /// is slow for a while is slow for both.
    pub(crate) fn over(&self, other: &Self) -> f64 {
        Self(self.0.iter().zip(&other.0).map(|(one, other)| one / other).collect()).median()
    }
}

/// Wall time and processor time of repeated runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    pub(crate) wall: Sample,
    pub(crate) processor: Sample,
}

impl Times {
    pub(crate) fn add(&mut self, cost: &Cost) {
        self.wall.add(cost.seconds);
        self.processor.add(cost.user_seconds + cost.system_seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle() {
        assert_eq!(Sample(vec![9.0, 1.0, 5.0]).median(), 5.0);
        assert_eq!(Sample(vec![1.0, 2.0, 3.0, 10.0]).median(), 2.5);
        assert!(Sample::default().median().is_nan());
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let (slow, fast) = (Sample(vec![20.0, 2.0, 4.0]), Sample(vec![10.0, 1.0, 1.0]));
        assert_eq!(slow.over(&fast), 2.0);
    }
}
