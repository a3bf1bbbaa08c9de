//! The Prometheus text. It is served elsewhere: here it is only rendered.

use crate::table::{Kind, METRICS};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

/// Upper bounds of the latency buckets, seconds: from a page cache's read to a disk that is about to be given up.
pub const LATENCY_BUCKETS: &[f64] = &[
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];

/// Why there is no exporter.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    /// Something else in this process has installed a recorder already.
    #[error(
        "the metrics of this process have an exporter already; install it once, when the node starts: {0}"
    )]
    Installed(#[source] BuildError),
    /// The table is wrong.
    #[error("a histogram of the table cannot be built: {0}")]
    Table(#[source] BuildError),
}

/// Renders all metrics of the process.
#[derive(Clone)]
pub struct Exporter {
    handle: PrometheusHandle,
}

impl Exporter {
    /// Makes the recorder of the process. Handles that were registered before count nothing.
    ///
    /// # Errors
    /// There is one already.
    pub fn install() -> Result<Self, ExporterError> {
        let handle = builder()?.install_recorder().map_err(ExporterError::Installed)?;
        describe();
        Ok(Self { handle })
    }

    /// An exporter with a recorder that the caller makes the one of a thread (`metrics::with_local_recorder`): for tests.
    ///
    /// # Errors
    /// The table is wrong.
    pub fn local() -> Result<(Self, PrometheusRecorder), ExporterError> {
        let recorder = builder()?.build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, describe);
        Ok((Self { handle }, recorder))
    }

    /// The text for `/metrics` (content type [`CONTENT_TYPE`](Self::CONTENT_TYPE)).
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Content type of the text.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Empties the buffers of the histograms: to be called every few seconds, also when nobody scrapes, because they
    /// hold each sample until then.
    pub fn run_upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn builder() -> Result<PrometheusBuilder, ExporterError> {
    METRICS
        .iter()
        .filter(|metric| metric.kind == Kind::Histogram)
        .try_fold(PrometheusBuilder::new(), |builder, metric| {
            builder.set_buckets_for_metric(Matcher::Full(metric.name.into()), LATENCY_BUCKETS)
        })
        .map_err(ExporterError::Table)
}

fn describe() {
    for metric in METRICS {
        metric.describe();
    }
}
