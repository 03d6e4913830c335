//! The benchmark's table: one line a measurement, ours beside the rivals of the same run. Knows numbers and columns, not where they come from.

/// Samples of one act: ours, `ctr`'s and podman's. Empty where a rival has nothing like it, or is not there.
#[derive(Default)]
pub struct Samples {
    pub ours: Vec<f64>,
    pub ctr: Vec<f64>,
    pub podman: Vec<f64>,
}

/// Milliseconds from which on seconds are easier to read.
const SECONDS_FROM_MS: f64 = 10_000.0;

/// The value below which this share of the samples lies.
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    if sorted.is_empty() {
        return f64::NAN;
    }
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

fn line(name: &str, columns: [&str; 7]) {
    let [ours, spread, ctr, ctr_ratio, podman, podman_ratio, target] = columns;
    println!("{name:<60} {ours:>9} {spread:>15} {ctr:>9} {ctr_ratio:>6} {podman:>9} {podman_ratio:>6} {target:>8}");
}

pub fn head() {
    line("", ["median", "10 % – 90 %", "ctr", "ratio", "podman", "ratio", "target"]);
}

fn time(ms: f64) -> String {
    if ms >= SECONDS_FROM_MS { format!("{:.2} s", ms / 1e3) } else { format!("{ms:.1} ms") }
}

fn spread(samples: &[f64]) -> String {
    let (low, high) = (quantile(samples, 0.1), quantile(samples, 0.9));
    if median(samples) >= SECONDS_FROM_MS {
        format!("{:.2} – {:.2}", low / 1e3, high / 1e3)
    } else {
        format!("{low:.1} – {high:.1}")
    }
}

/// Prints a row of times in milliseconds; a ratio is ours by theirs, of medians.
pub fn row(name: &str, samples: &Samples, target: &str) {
    let ours = median(&samples.ours);
    let rival = |theirs: &[f64]| match theirs {
        [] => (String::new(), String::new()),
        some => (time(median(some)), format!("{:.2}", ours / median(some))),
    };
    let (ctr, podman) = (rival(&samples.ctr), rival(&samples.podman));
    line(name, [&time(ours), &spread(&samples.ours), &ctr.0, &ctr.1, &podman.0, &podman.1, target]);
}

/// Prints a row of other values: ours, `ctr`'s and podman's medians as this text.
pub fn values(name: &str, samples: &Samples, text: fn(f64) -> String, target: &str) {
    let shown = |samples: &[f64]| if samples.is_empty() { String::new() } else { text(median(samples)) };
    line(name, [&shown(&samples.ours), "", &shown(&samples.ctr), "", &shown(&samples.podman), "", target]);
}

/// Prints one value of ours.
pub fn value(name: &str, value: &str, target: &str) {
    line(name, [value, "", "", "", "", "", target]);
}

pub fn megabytes(value: f64) -> String {
    format!("{value:.1} MB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples_and_the_median_of_two_is_one_of_them() {
        let samples = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!((quantile(&samples, 0.1), median(&samples), quantile(&samples, 0.9)), (1.0, 3.0, 5.0));
        assert_eq!(median(&[7.0]), 7.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn long_times_are_in_seconds() {
        assert_eq!((time(9_999.0), time(10_000.0)), ("9999.0 ms".to_owned(), "10.00 s".to_owned()));
    }
}
