//! The highest rate that is still good: doubled until one is bad, then by halves in between. Pure.

/// Where a search stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    good: Option<f64>,
    bad: Option<f64>,
    start: f64,
    precision: f64,
}

/// A search ends here even if nothing was bad, or nothing good: something else is wrong then.
const STEPS_MAX: i32 = 20;

impl Search {
    /// Begins at a rate; ends when the highest good and the lowest bad one differ by less than the part `precision`.
    pub fn new(start: f64, precision: f64) -> Self {
        Self { good: None, bad: None, start, precision: precision.max(0.001) }
    }

    /// The rate to try next; `None` when the search is over.
    pub fn next(&self) -> Option<f64> {
        let most = self.start * 2_f64.powi(STEPS_MAX);
        match (self.good, self.bad) {
            (None, None) => Some(self.start),
            (Some(good), None) => Some(good * 2.0).filter(|rate| *rate <= most),
            (None, Some(bad)) => Some(bad / 2.0).filter(|rate| *rate >= self.start / 2_f64.powi(STEPS_MAX)),
            (Some(good), Some(bad)) => {
                ((bad - good) / bad > self.precision).then(|| f64::midpoint(good, bad))
            }
        }
    }

    /// How a rate was.
    pub fn tell(&mut self, rate: f64, is_good: bool) {
        *(if is_good { &mut self.good } else { &mut self.bad }) = Some(rate);
    }

    /// The highest rate that was good so far.
    pub fn best(&self) -> Option<f64> {
        self.good
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_limit_is_found_wherever_it_begins(limit in 1.0_f64..1e6, start in 1.0_f64..1e6) {
            let mut search = Search::new(start, 0.02);
            let mut steps = 0;
            while let Some(rate) = search.next() {
                search.tell(rate, rate <= limit);
                steps += 1;
                prop_assert!(steps < 60);
            }
            let best = search.best().unwrap();
            prop_assert!(best <= limit && best >= limit * 0.97, "{best} for {limit}");
        }
    }

    #[test]
    fn a_search_without_a_limit_ends() {
        for verdict in [true, false] {
            let mut search = Search::new(100.0, 0.1);
            let steps = std::iter::from_fn(|| {
                let rate = search.next()?;
                search.tell(rate, verdict);
                Some(())
            });
            assert_eq!(steps.count(), STEPS_MAX as usize + 1);
        }
    }
}
