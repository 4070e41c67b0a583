//! What is read of Prometheus' text, and what comes of it.

use super::*;
use proptest::prelude::*;

const TEXT: &str = r#"# HELP wait_seconds Time.
# TYPE wait_seconds histogram
wait_seconds_bucket{class="re}li\"able,le=",le="0.1"} 10
wait_seconds_bucket{class="re}li\"able,le=",le="0.2"} 20 1700000000
wait_seconds_bucket{class="re}li\"able,le=",le="+Inf"} 20
wait_seconds_sum{class="re}li\"able,le="} 2.5
wait_seconds_count{class="re}li\"able,le="} 20
wait_seconds_bucket{le="0.1", class="volatile"} 0
wait_seconds_bucket{le="0.2", class="volatile"} 10
wait_seconds_bucket{le="+Inf", class="volatile"} 20
wait_seconds_sum{class="volatile"} 1.5e1
wait_seconds_count{class="volatile"} 20

wait_seconds_more_bucket{le="+Inf"} 7
plain_seconds_bucket{le="+Inf"} 3
plain_seconds_sum 6
summary_seconds{quantile="0.5"} 0.1
summary_seconds_sum 3
summary_seconds_count 3
"#;

#[test]
fn label_sets_are_added_up_and_other_names_are_not() {
    let wait = Histogram::read(TEXT, "wait_seconds").unwrap();
    assert_eq!(wait.buckets, [(0.1, 10.0), (0.2, 30.0), (f64::INFINITY, 40.0)]);
    assert_eq!((wait.count(), wait.sum), (40.0, 17.5));
    assert_eq!(Histogram::read(TEXT, "plain_seconds").unwrap().mean(), 2.0);
}

#[test]
fn what_is_no_histogram_is_none() {
    for missing in ["none_seconds", "summary_seconds", "wait_second"] {
        assert_eq!(Histogram::read(TEXT, missing), None, "{missing}");
    }
    assert_eq!(Histogram::read("half_bucket{le=\"1\"} 1\nhalf_sum 1\n", "half"), None, "no infinite bound");
    assert_eq!(Histogram::read("broken_bucket{le=\"+Inf\" 1\nbroken_bucket", "broken"), None);
}

#[test]
fn quantiles_are_interpolated_within_a_bucket() {
    let wait = Histogram::read(TEXT, "wait_seconds").unwrap();
    assert_eq!(wait.quantile(0.125), 0.05);
    assert_eq!(wait.quantile(0.5), 0.1 + 0.1 * 10.0 / 20.0);
    assert_eq!(wait.quantile(0.99), 0.2, "above the highest bound nobody knows more than the bound");
}

#[test]
fn a_difference_is_what_came_in_between() {
    let read = |few: u32, all: u32, sum: f64| {
        let text = format!("t_bucket{{le=\"1\"}} {few}\nt_bucket{{le=\"+Inf\"}} {all}\nt_sum {sum}\n");
        Histogram::read(&text, "t").unwrap()
    };
    assert_eq!(read(5, 9, 12.0).since(&read(2, 3, 4.0)), Ok(read(3, 6, 8.0)));
    assert_eq!(read(5, 9, 12.0).since(&read(6, 9, 4.0)), Err(Mismatch::Restart));
    let mut both = Histogram::default();
    both.add(&read(1, 2, 3.0)).unwrap();
    both.add(&read(1, 2, 3.0)).unwrap();
    assert_eq!(both, read(2, 4, 6.0));
    let other = Histogram::read("t_bucket{le=\"+Inf\"} 1", "t").unwrap();
    assert_eq!(both.add(&other), Err(Mismatch::Bounds));
}

proptest! {
    #[test]
    fn any_text_is_read(text in "(t_bucket|t_sum|t)?[{}=\"\\\\, le0-9+Inf\n]{0,60}") {
        let _ = Histogram::read(&text, "t");
    }
}
