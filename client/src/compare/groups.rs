//! The samples of a results folder, sorted into groups that may be compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::error::Error;
use crate::record::Row;

/// Latencies in ms of successful, measured requests, by what they have in common.
pub type Groups = BTreeMap<String, Vec<f64>>;

/// Reads `folder/samples.csv`, or those of the folders inside.
pub(super) fn read(folder: &Path) -> anyhow::Result<Groups> {
    let mut files = vec![folder.join("samples.csv")];
    if !files[0].is_file() {
        files = ["rtt", "scaling", "accuracy"].map(|e| folder.join(e).join("samples.csv")).into();
    }
    files.retain(|file| file.is_file());
    if files.is_empty() {
        let shown = folder.display();
        return Err(Error::Usage(format!("{shown}: no samples.csv in this folder")).into());
    }
    let mut groups = Groups::new();
    for file in files {
        read_file(&file, &mut groups)?;
    }
    Ok(groups)
}

fn read_file(file: &PathBuf, groups: &mut Groups) -> anyhow::Result<()> {
    let shown = file.display().to_string();
    let mut reader = csv::Reader::from_path(file).with_context(|| shown.clone())?;
    for row in reader.deserialize::<Row>() {
        let row = row.with_context(|| shown.clone())?;
        if !row.warm_up && row.outcome.starts_with('2') {
            groups.entry(group(&row)).or_default().push(row.latency_ms);
        }
    }
    Ok(())
}

/// Trials of one cell belong together; so do requests for one picture at one resolution.
fn group(row: &Row) -> String {
    let cell = row.trial.split(" trial=").next().unwrap_or_default();
    let item = match row.trial.as_str() {
        "rtt" => row.item.as_str(),
        "accuracy" => row.item.rsplit_once('@').map_or("", |(_, side)| side),
        _ => "",
    };
    format!("{cell} {item}").trim_end().to_owned()
}
