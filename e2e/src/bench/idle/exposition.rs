//! What a program tells at `/metrics`: counters in the OpenMetrics text format.

/// Metrics of one program at one moment.
#[derive(Clone, Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// From the text that it answered.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The sum over all samples of a name that have each of these labels, such as `result="sent"`; `None` if the program
    /// has no such samples.
    pub fn sum(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let values: Vec<f64> = self
            .0
            .lines()
            .filter_map(|line| sample(line, name, labels))
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

/// The value in a line, if it is of this metric.
fn sample(line: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (set, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.rsplit_once('}')?,
        None if rest.starts_with(' ') => ("", rest),
        None => return None,
    };
    let has = |label: &&str| set.split(',').any(|known| known == *label);
    if !labels.iter().all(has) {
        return None;
    }
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        let metrics = Exposition::new(
            "# HELP probes Health probes.\n# TYPE probes counter\n\
             probes_total{kind=\"service\",result=\"success\"} 7\n\
             probes_total{kind=\"proxy\",result=\"success\"} 2\n\
             probes_total{kind=\"proxy\",result=\"failure\"} 1\n\
             decisions_total 12\nlive 3 1700000000\n# EOF\n",
        );
        assert_eq!(metrics.sum("probes_total", &[]), Some(10.0));
        assert_eq!(metrics.sum("probes_total", &["kind=\"proxy\""]), Some(3.0));
        let both = ["kind=\"proxy\"", "result=\"success\""];
        assert_eq!(metrics.sum("probes_total", &both), Some(2.0));
        assert_eq!(metrics.sum("decisions_total", &[]), Some(12.0));
        assert_eq!(metrics.sum("live", &[]), Some(3.0));
        for absent in ["probes", "decisions", "other_total"] {
            assert_eq!(metrics.sum(absent, &[]), None, "{absent}");
        }
        assert_eq!(metrics.sum("decisions_total", &["kind=\"x\""]), None);
    }
}
