//! Counts and measures that the server makes.

use std::time::SystemTime;

use serde_json::{Map, Value as Json, json};

use super::{ClientError, lenient};

/// What to count or measure, by what to group it, and when.
///
/// The words are Langfuse's own; see its documentation of the metrics interface. Metadata can be
/// filtered by and never grouped by.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use buttress_langfuse::client::MetricsQuery;
///
/// let now = SystemTime::now();
/// let retries = MetricsQuery::new("observations", now - Duration::from_secs(86_400), now)
///     .group_by("level")
///     .measure("count", "count")
///     .filter("name", "=", "string", "retry_execution");
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a query does nothing until a client gets it"]
pub struct MetricsQuery {
    view: String,
    from: SystemTime,
    to: SystemTime,
    dimensions: Vec<Json>,
    metrics: Vec<Json>,
    filters: Vec<Json>,
    granularity: Option<String>,
    order_by: Vec<Json>,
    row_limit: Option<u32>,
}

/// One row of the answer: the dimensions by their names, each measure as `aggregation_measure`.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricsRow(Map<String, Json>);

// ===== impl MetricsQuery =====

impl MetricsQuery {
    /// Asks a view, such as `observations` or `scores-numeric`, about a time.
    pub fn new(view: impl Into<String>, from: SystemTime, to: SystemTime) -> Self {
        Self {
            view: view.into(),
            from,
            to,
            dimensions: Vec::new(),
            metrics: Vec::new(),
            filters: Vec::new(),
            granularity: None,
            order_by: Vec::new(),
            row_limit: None,
        }
    }

    /// Groups by a dimension, such as `name` or `level`.
    pub fn group_by(mut self, dimension: &str) -> Self {
        self.dimensions.push(json!({ "field": dimension }));
        self
    }

    /// Asks for a measure, such as `latency`, in an aggregation, such as `p95`.
    pub fn measure(mut self, measure: &str, aggregation: &str) -> Self {
        self.metrics.push(json!({ "measure": measure, "aggregation": aggregation }));
        self
    }

    /// Takes what a column says so, such as `name` with `=` and the type `string`.
    pub fn filter(
        mut self,
        column: &str,
        operator: &str,
        kind: &str,
        value: impl Into<Json>,
    ) -> Self {
        let value: Json = value.into();
        self.filters
            .push(json!({ "column": column, "operator": operator, "type": kind, "value": value }));
        self
    }

    /// Takes what says so in its metadata.
    pub fn filter_metadata(mut self, key: &str, operator: &str, value: &str) -> Self {
        self.filters.push(json!({
            "column": "metadata", "operator": operator, "type": "stringObject", "key": key,
            "value": value,
        }));
        self
    }

    /// Splits the time, by `hour` or `day` for example.
    pub fn every(mut self, granularity: impl Into<String>) -> Self {
        self.granularity = Some(granularity.into());
        self
    }

    /// Orders the rows by a field, such as `count_count`, `asc` or `desc`.
    pub fn order_by(mut self, field: &str, direction: &str) -> Self {
        self.order_by.push(json!({ "field": field, "direction": direction }));
        self
    }

    /// Sets how many rows come at most; a server has a limit of 100 of its own, and at most 1,000.
    pub const fn row_limit(mut self, rows: u32) -> Self {
        self.row_limit = Some(rows);
        self
    }

    pub(super) fn to_json(&self) -> Json {
        let granularity = self.granularity.as_ref();
        let order_by = (!self.order_by.is_empty()).then_some(&self.order_by);
        let mut json = json!({
            "view": self.view,
            "dimensions": self.dimensions,
            "metrics": self.metrics,
            "filters": self.filters,
            "timeDimension": granularity.map(|granularity| json!({ "granularity": granularity })),
            "fromTimestamp": lenient::iso(self.from),
            "toTimestamp": lenient::iso(self.to),
            "orderBy": order_by,
        });
        if let Some(rows) = self.row_limit {
            json["config"] = json!({ "row_limit": rows });
        }
        json
    }
}

// ===== impl MetricsRow =====

impl MetricsRow {
    /// Returns a number, also where the server writes it as text.
    #[must_use]
    pub fn number(&self, field: &str) -> Option<f64> {
        lenient::number(self.0.get(field)?)
    }

    /// Returns a count, also where the server writes it as text.
    #[must_use]
    pub fn count(&self, field: &str) -> Option<u64> {
        lenient::count(self.0.get(field)?)
    }

    /// Returns a text, such as the name of a dimension.
    #[must_use]
    pub fn text(&self, field: &str) -> Option<String> {
        lenient::text(self.0.get(field)?)
    }

    /// Returns what the server answered for a field.
    #[must_use]
    pub fn get(&self, field: &str) -> Option<&Json> {
        self.0.get(field)
    }

    pub(super) fn read_all(mut answer: Json) -> Result<Vec<Self>, ClientError> {
        let Json::Array(rows) = answer["data"].take() else {
            return Err(ClientError::Unreadable { what: "it has no list of data".to_owned() });
        };
        let rows = rows.into_iter().filter_map(|row| match row {
            Json::Object(row) => Some(Self(row)),
            _ => None,
        });
        Ok(rows.collect())
    }
}
