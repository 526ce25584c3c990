//! The results of one experiment, for a page of its own or as part of a larger report.

use anyhow::Result;
use plot::Chart;
use serde::{Deserialize, Serialize};

use crate::page::Page;
use crate::record::{Folder, Manifest, PARTS, SECTION};
use crate::report::Table;

/// The text, the charts and the table of an experiment.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Section {
    pub(super) title: String,
    pub(super) finding: String,
    /// How it was measured, and what theory predicts.
    pub(super) method: String,
    /// Its charts, as SVG.
    pub(super) charts: Vec<String>,
    pub(super) table: Table,
}

impl Section {
    /// A section without charts and table.
    pub(super) fn new(title: &str, finding: String, method: String) -> Self {
        let (charts, table) = (Vec::new(), Table::default());
        Self { title: title.to_owned(), finding, method, charts, table }
    }

    /// The section with these charts and this table.
    pub(super) fn with(self, charts: &[(&'static str, Chart)], table: Table) -> Self {
        let charts = charts.iter().map(|(_, chart)| chart.to_svg()).collect();
        Self { charts, table, ..self }
    }

    /// Renders the section as a page of its own.
    pub(super) fn page(&self, manifest: &Manifest) -> String {
        let mut page = Page::new(&format!("{}: {}", self.title, manifest.started), &self.title);
        self.findings(&mut page);
        page.heading("Method");
        page.paragraph(&self.method);
        page.conditions(manifest);
        page.paragraph("Each trial has a folder of its own, with every request and a page.");
        page.finish()
    }

    /// Adds the section to a page.
    pub(crate) fn show(&self, page: &mut Page) {
        page.heading(&self.title);
        self.findings(page);
        page.remark("Method:", &self.method);
    }

    fn findings(&self, page: &mut Page) {
        page.finding("This run found:", &self.finding);
        for chart in &self.charts {
            page.figure(chart);
        }
        page.table(&self.table);
    }
}

/// The sections of all completed experiments in folders inside that of a report.
pub(crate) fn sections(folder: &Folder) -> Result<Vec<Section>> {
    let parts = PARTS.map(|part| Folder::open(&folder.path().join(part)));
    let ended = parts.iter().filter(|part| part.path().join(SECTION).is_file());
    ended.map(|part| part.read_json(SECTION)).collect()
}
