//! The results of an experiment for a page: a page of its own, or a part of the report of several.

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
    /// How it was measured, and what theory says.
    pub(super) method: String,
    /// Its charts, as SVG.
    pub(super) charts: Vec<String>,
    pub(super) table: Table,
}

impl Section {
    /// Without charts and table.
    pub(super) fn new(title: &str, finding: String, method: String) -> Self {
        let (charts, table) = (Vec::new(), Table::default());
        Self { title: title.to_owned(), finding, method, charts, table }
    }

    /// The section with these charts as well.
    pub(super) fn with(self, charts: &[(&'static str, Chart)], table: Table) -> Self {
        let charts = charts.iter().map(|(_, chart)| chart.to_svg()).collect();
        Self { charts, table, ..self }
    }

    /// A page of its own.
    pub(super) fn page(&self, manifest: &Manifest) -> String {
        let mut page = Page::new(&format!("{}: {}", self.title, manifest.started), &self.title);
        self.findings(&mut page);
        page.heading("Method");
        page.paragraph(&self.method);
        page.conditions(manifest);
        page.paragraph("Each trial has a folder of its own, with every request and a page.");
        page.finish()
    }

    /// A part of a page.
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

/// What was measured in folders below that of a report, as far as it came to its end.
pub(crate) fn sections(folder: &Folder) -> Result<Vec<Section>> {
    let parts = PARTS.map(|part| Folder::open(&folder.path().join(part)));
    let ended = parts.iter().filter(|part| part.path().join(SECTION).is_file());
    ended.map(|part| part.read_json(SECTION)).collect()
}
