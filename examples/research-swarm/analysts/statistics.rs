//! The few statistics that the analysts share.

/// Returns the arithmetic mean; 0 of nothing.
pub(super) fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / count(values) }
}

/// Returns the standard deviation of a sample; 0 of fewer than two values.
pub(super) fn deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (count(values) - 1.0)).sqrt()
}

/// A line through points at 0, 1, 2, .. by ordinary least squares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Line {
    /// The rise from one point to the next.
    pub(super) slope: f64,
    /// The share of the variance that the line explains, 0 to 1.
    pub(super) r_squared: f64,
}

/// Fits a line; a flat one through fewer than two points.
pub(super) fn fit(values: &[f64]) -> Line {
    let middle = (count(values) - 1.0) / 2.0;
    let mean = mean(values);
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (x, value) in values.iter().enumerate() {
        let (dx, dy) = (x as f64 - middle, value - mean);
        xx += dx * dx;
        xy += dx * dy;
        yy += dy * dy;
    }
    if xx == 0.0 || yy == 0.0 {
        return Line { slope: 0.0, r_squared: 0.0 };
    }
    Line { slope: xy / xx, r_squared: xy * xy / (xx * yy) }
}

/// Returns Pearson's correlation of pairs; 0 where one of the two does not vary.
pub(super) fn correlation(xs: &[f64], ys: &[f64]) -> f64 {
    let (mean_x, mean_y) = (mean(xs), mean(ys));
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in xs.iter().zip(ys) {
        let (dx, dy) = (x - mean_x, y - mean_y);
        xx += dx * dx;
        xy += dx * dy;
        yy += dy * dy;
    }
    if xx == 0.0 || yy == 0.0 { 0.0 } else { xy / (xx * yy).sqrt() }
}

fn count(values: &[f64]) -> f64 {
    values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_exactly() {
        let line = fit(&[1.0, 3.0, 5.0, 7.0]);
        assert_eq!(line, Line { slope: 2.0, r_squared: 1.0 });
    }

    #[test]
    fn too_few_values_divide_nothing_by_zero() {
        assert_eq!(mean(&[]), 0.0);
        assert_eq!(deviation(&[3.0]), 0.0);
        assert_eq!(fit(&[3.0]), Line { slope: 0.0, r_squared: 0.0 });
        assert_eq!(fit(&[]), Line { slope: 0.0, r_squared: 0.0 });
        assert_eq!(correlation(&[], &[]), 0.0);
        assert_eq!(correlation(&[1.0, 1.0], &[1.0, 2.0]), 0.0);
    }
}
