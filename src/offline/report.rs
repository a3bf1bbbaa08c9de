//! What the off-line commands tell people: what was done, what was found, what to do next.

use mendblock_storage::offline::{
    ApplyReport, CheckReport, CreateReport, Finding, Location, LogForm, MetaPlacement, Severity,
};
use serde::Serialize;

/// The report of `check-md` for JSON: with the words and the weight of each finding.
#[derive(Serialize)]
pub(super) struct CheckAnswer<'r> {
    /// The gravest finding.
    worst: Option<Severity>,
    /// Findings with their texts.
    findings: Vec<SpelledOut<'r>>,
    /// Bits of the volume that are set.
    bits_out_of_sync: u64,
    /// The meta-data, if there is a superblock to trust.
    metadata: &'r Option<mendblock_storage::format::dump::Dump>,
}

#[derive(Serialize)]
struct SpelledOut<'r> {
    severity: Severity,
    text: String,
    #[serde(flatten)]
    finding: &'r Finding,
}

impl<'r> CheckAnswer<'r> {
    pub(super) fn new(report: &'r CheckReport) -> Self {
        let findings = report.findings.iter().map(|finding| SpelledOut {
            severity: finding.severity(),
            text: finding.to_string(),
            finding,
        });
        Self {
            worst: report.worst(),
            findings: findings.collect(),
            bits_out_of_sync: report.bits_out_of_sync,
            metadata: &report.metadata,
        }
    }
}

pub(super) fn created(location: &Location, report: &CreateReport) -> String {
    let layout = &report.layout;
    let mut text = format!(
        "{}: meta-data created ({})\n  room for data: {} KiB\n  bitmap at byte {}, activity log at byte {}, superblock at byte {}\n",
        location.meta_path().display(),
        placement(location),
        report.usable_sectors / 2,
        layout.bitmap_byte(),
        layout.log_byte(),
        layout.superblock_byte(),
    );
    for found in &report.overwritten {
        text += &format!("  found and overruled by --force: {found}\n");
    }
    text += "The disk is Inconsistent: its data do not count yet. Next: start the nodes; then, for a new pair, run\n\
             mendblock primary VOLUME --force on the node whose data count. A replaced disk fills from the peer by itself.\n";
    text
}

pub(super) fn checked(location: &Location, report: &CheckReport) -> String {
    let path = location.meta_path().display();
    let verdict = match report.worst() {
        None | Some(Severity::Note) => "in order",
        Some(Severity::Warning) => "usable, with warnings",
        Some(Severity::Error) => "NOT usable",
    };
    let mut text = format!("{path}: the meta-data are {verdict}\n");
    for finding in &report.findings {
        let weight = match finding.severity() {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        text += &format!("  {weight}: {finding}\n");
    }
    if report.metadata.is_some() {
        // A bit stands for 4 KiB.
        text += &format!("  out of sync: {} KiB\n", report.bits_out_of_sync * 4);
    }
    if report.worst() == Some(Severity::Error) {
        text += "Next: restore the disk's size or a backup of the meta-data; or run mendblock create-md and take all data\n\
                 from the peer by a resync.\n";
    }
    text
}

pub(super) fn applied(location: &Location, report: &ApplyReport) -> String {
    let path = location.meta_path().display();
    let changed = report.superblock_written || report.log_rewritten || report.bits_set > 0;
    let mut text = match changed {
        true => format!("{path}: activity log applied\n"),
        false => format!("{path}: nothing to apply, the activity log is clean\n"),
    };
    if report.was_primary {
        text += &format!(
            "  the node went down as Primary: {} hot extent(s) of 4 MiB, {} KiB newly marked out of sync\n",
            report.hot_extents.len(),
            report.bits_set * 4
        );
    }
    if report.log_form == LogForm::Old {
        text += "  the log had the form of DRBD 8.3 and was converted\n";
    }
    if !report.unusable_blocks.is_empty() {
        text += &format!(
            "  {} block(s) of the log were damaged\n",
            report.unusable_blocks.len()
        );
    }
    if let Some(error) = &report.ignored_error {
        text += &format!("  {error}: harmless, since the node was not Primary\n");
    }
    if !report.unreadable_pages.is_empty() {
        text += &format!(
            "  {} page(s) of the bitmap could not be read: all their bits are set now\n",
            report.unreadable_pages.len()
        );
    }
    if report.full_sync_set {
        text +=
            "  the log does not say everything that was hot: the next connection resyncs the whole volume\n";
    }
    text += "Next: attach the disk (start the node, or mendblock attach VOLUME).\n";
    text
}

fn placement(location: &Location) -> &'static str {
    match location.meta {
        MetaPlacement::Internal => "internal, at the end of the disk",
        MetaPlacement::FlexExternal(_) | MetaPlacement::Indexed(..) => "on a disk of their own",
    }
}
