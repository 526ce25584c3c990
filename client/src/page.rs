//! Reports as a single HTML file. Nothing is fetched, so a page can be mailed and reads the same
//! in ten years.
//!
//! A page follows the reader's light or dark setting, and on a narrow screen every table row
//! becomes a card with the column heads beside the values. Charts are embedded as SVG.

use std::fmt::Write;

use plot::{Chart, escape};

use crate::record::Manifest;
use crate::report::Table;

/// Charts are drawn for a light background; dark mode replaces their few colours.
const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#222;--paper:#fff;--line:#ddd;--mark:#0072b2;--box:#f4f8fb}\
@media(prefers-color-scheme:dark){:root{--ink:#ddd;--paper:#16181b;--line:#3a3f45;--mark:#56b4e9;--box:#1f242a}\
svg [fill='#fff']{fill:#16181b}svg[fill='#222'],svg [fill='#222']{fill:#ddd}svg [fill='#555']{fill:#aaa}\
svg [stroke='#222']{stroke:#aaa}svg [stroke='#ddd']{stroke:#3a3f45}\
svg [stroke='#000000']{stroke:#fff}svg [fill='#000000']{fill:#fff}\
svg [stroke='#0072b2']{stroke:#56b4e9}svg [fill='#0072b2']{fill:#56b4e9}}\
body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;\
color:var(--ink);background:var(--paper);overflow-wrap:anywhere}\
table{border-collapse:collapse;font-size:.85rem;margin:1rem 0;font-variant-numeric:tabular-nums}\
th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid var(--line)}\
th:first-child,td:first-child{text-align:left}\
figure{margin:1rem 0}svg{max-width:100%;height:auto}\
dt{font-weight:bold}dd{margin:0 0 .4rem 1rem}\
blockquote{margin:1rem 0;padding:.1rem 1rem;border-left:4px solid var(--mark);background:var(--box)}\
@media(max-width:40rem){thead{display:none}tr{display:block;margin:.8rem 0;border:1px solid var(--line)}\
td,td:first-child{display:flex;justify-content:space-between;gap:1rem;text-align:right}\
td::before{content:attr(data-head);font-weight:bold}td:empty{display:none}}\
@media print{body{max-width:none}figure,tr{break-inside:avoid}}";

/// A page that grows from top to bottom.
#[derive(Debug)]
pub(crate) struct Page {
    html: String,
}

impl Page {
    /// An empty page with a title and, below it, a heading.
    pub(crate) fn new(title: &str, heading: &str) -> Self {
        let mut page = Self { html: String::new() };
        page.push(format_args!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
             <title>{}</title>\n<style>{STYLE}</style>\n<main>\n<h1>{}</h1>\n",
            escape(title),
            escape(heading)
        ));
        page
    }

    /// Adds a heading.
    pub(crate) fn heading(&mut self, text: &str) {
        self.push(format_args!("<h2>{}</h2>\n", escape(text)));
    }

    /// Adds a paragraph.
    pub(crate) fn paragraph(&mut self, text: &str) {
        self.push(format_args!("<p>{}</p>\n", escape(text)));
    }

    /// Adds a paragraph that begins with a bold lead.
    pub(crate) fn remark(&mut self, lead: &str, text: &str) {
        self.push(format_args!("<p><strong>{}</strong> {}</p>\n", escape(lead), escape(text)));
    }

    /// Adds a highlighted remark with the main result.
    pub(crate) fn finding(&mut self, lead: &str, text: &str) {
        self.html.push_str("<blockquote>");
        self.remark(lead, text);
        self.html.push_str("</blockquote>\n");
    }

    /// Adds a chart.
    pub(crate) fn chart(&mut self, chart: &Chart) {
        self.figure(&chart.to_svg());
    }

    /// Adds a drawing that is already SVG.
    pub(crate) fn figure(&mut self, svg: &str) {
        self.push(format_args!("<figure>{svg}</figure>\n"));
    }

    /// Adds a table.
    pub(crate) fn table(&mut self, table: &Table) {
        let [heads, rows @ ..] = table.rows() else { return };
        self.html.push_str("<table>\n<thead><tr>");
        for head in heads {
            self.push(format_args!("<th>{}</th>", escape(head)));
        }
        self.html.push_str("</tr></thead>\n<tbody>\n");
        for row in rows {
            self.html.push_str("<tr>");
            for (number, cell) in row.iter().enumerate() {
                let head = heads.get(number).map_or("", String::as_str);
                self.push(format_args!("<td data-head=\"{}\">{}</td>", escape(head), escape(cell)));
            }
            self.html.push_str("</tr>\n");
        }
        self.html.push_str("</tbody>\n</table>\n");
    }

    /// Adds a list of terms and their values.
    pub(crate) fn terms(&mut self, terms: &[(&str, String)]) {
        self.html.push_str("<dl>\n");
        for (term, text) in terms {
            self.push(format_args!("<dt>{}</dt><dd>{}</dd>\n", escape(term), escape(text)));
        }
        self.html.push_str("</dl>\n");
    }

    /// Adds what is needed to repeat the run.
    pub(crate) fn conditions(&mut self, manifest: &Manifest) {
        let unknown = || "unknown".to_owned();
        self.heading("Conditions");
        self.terms(&[
            ("started", manifest.started.clone()),
            ("command", manifest.command.join(" ")),
            ("service", manifest.target.clone()),
            ("slice", manifest.slice.clone().unwrap_or_else(|| "none".to_owned())),
            ("seed", manifest.seed.to_string()),
            ("client", manifest.client_version.clone()),
            ("commit", manifest.git_commit.clone().unwrap_or_else(unknown)),
            (
                "processor",
                format!("{} x {}", manifest.cores, manifest.cpu.clone().unwrap_or_else(unknown)),
            ),
            ("kernel", manifest.kernel.clone().unwrap_or_else(unknown)),
            ("settings", manifest.settings.to_string()),
        ]);
    }

    /// Ends the page and returns its HTML.
    pub(crate) fn finish(mut self) -> String {
        self.html.push_str("</main>\n</html>\n");
        self.html
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        self.html.write_fmt(text).expect("a string takes any text");
    }
}

#[cfg(test)]
mod tests {
    use super::Page;
    use crate::report::Table;

    #[test]
    fn a_page_needs_nothing_else_and_text_stays_text() {
        let mut page = Page::new("a & b", "<script>");
        let mut table = Table::new(&["name", "p50 \"ms\""]);
        table.push(vec!["<img src=x>".into(), "1".into()]);
        page.table(&table);
        page.table(&Table::default());
        let html = page.finish();
        assert!(html.contains("data-head=\"p50 &quot;ms&quot;\"") && html.contains("&lt;img"));
        for forbidden in ["<script", "<img", "<link", "url(", "@import"] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
        assert!(!html.contains("http"), "nothing is fetched");
        assert!(html.contains("prefers-color-scheme:dark") && html.contains("max-width:40rem"));
    }
}
