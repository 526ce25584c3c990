//! `worker train sql`, run as by a user: Iris, a regression from a database, versions, errors.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use worker::{
    model,
    repository::{Cell, Features, Version},
};

const IRIS: &str = include_str!("../../../models/iris_model/1/training.sql");

fn train(root: &Path, sql: &str, flags: &[&str]) -> Output {
    let path = root.join("model.sql");
    fs::write(&path, sql).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.args(["train", "sql"]).arg(path).arg("--models").arg(root.join("models"));
    command.arg("--json").args(flags).current_dir(root).output().unwrap()
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Raw outputs of the version in `folder` for one row.
fn outputs(folder: &Path, row: &[Cell]) -> Vec<f32> {
    let version = Version::read(folder).unwrap();
    let Features::Table(table) = version.manifest.features() else {
        unreachable!("a model of tables")
    };
    let features = table.encode(row).unwrap();
    let batch =
        candle_core::Tensor::from_slice(&features, (1, features.len()), &candle_core::Device::Cpu);
    let network = model::load(&version, &engine::Options::default()).unwrap();
    network.forward(&batch.unwrap()).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn the_shipped_iris_model_knows_a_typical_flower_of_each_kind() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/iris_model/1");
    let labels = fs::read_to_string(folder.join("labels.txt")).unwrap();
    assert_eq!(labels, "setosa\nversicolor\nvirginica\n");
    for (class, row) in
        [(0, [5.0, 3.4, 1.5, 0.2]), (1, [5.9, 2.8, 4.3, 1.3]), (2, [6.6, 3.0, 5.6, 2.0])]
    {
        let logits = outputs(&folder, &row.map(Cell::Number));
        assert_eq!(model::top_k(&logits, 1), [class], "{row:?}: {logits:?}");
    }
}

#[test]
fn iris_is_learnt_from_a_csv_file_and_each_run_adds_a_version() {
    let csv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/src/workload/iris.csv");
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let table = format!("iris={}", csv.display());
    for version in 1..3 {
        let report = report(&train(root, IRIS, &["--csv", &table]));
        assert_eq!(report["version"], version);
        assert_eq!(report["rows"], 150);
        assert_eq!(report["evaluated_rows"], 30);
        assert!(report["evaluation"]["accuracy"].as_f64().unwrap() >= 0.9, "{report}");
        assert!(root.join(format!("models/iris_model/{version}/training.sql")).is_file());
    }
    let weights = |version: u32| {
        fs::read(root.join(format!("models/iris_model/{version}/weights.safetensors"))).unwrap()
    };
    assert_eq!(weights(1), weights(2), "the same seed gives the same bits");
    let new = complaint(&train(root, &IRIS.replace("OR REPLACE ", ""), &["--csv", &table]));
    assert!(new.contains("version 2 exists") && new.contains("CREATE OR REPLACE"), "{new}");
}

#[test]
fn a_regression_over_a_database_recovers_the_formula() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let db = root.join("data.sqlite");
    let connection = rusqlite::Connection::open(&db).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE flats (area REAL, town TEXT, price REAL);
             WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 199)
             INSERT INTO flats SELECT 20 + i, iif(i % 2, 'Ulm', 'Bonn'),
                 1000 * (20 + i) + iif(i % 2, 50000, 0) FROM n",
        )
        .unwrap();
    drop(connection);
    let sql = "create model `shop.price` options(model_type='linear_reg',
        input_label_cols=['price'], max_iterations=5000) as select * from flats;";
    let report = report(&train(root, sql, &["--db", db.to_str().unwrap()]));
    assert!(report["evaluation"]["r2"].as_f64().unwrap() > 0.9999, "{report}");
    let row = [Cell::Number(100.0), Cell::Text("Ulm".to_owned())];
    let price = outputs(&root.join("models/price/1"), &row)[0];
    assert!((price - 150_000.0).abs() < 200.0, "{price}");
    assert!(!root.join("models/price/1/labels.txt").exists());
}

#[test]
fn mistakes_in_the_sql_and_in_the_columns_name_the_place_and_the_fix() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::write(root.join("t.csv"), "a,b\n1,x\n2,y\n3,x\n").unwrap();
    let head = "CREATE MODEL m OPTIONS(model_type='logistic_reg', input_label_cols=['b']) AS\n";
    let refused = |sql: &str| complaint(&train(root, sql, &["--csv", "t=t.csv"]));
    let option = refused("CREATE MODEL m\nOPTIONS(model='x') AS SELECT 1");
    assert!(option.contains("model.sql: line 2, column 9") && option.contains("model_type"));
    let column = refused(&format!("{head}SELECT a, c FROM t"));
    assert!(column.contains("line 2, column 11: no such column: c"), "{column}");
    let label = refused(&format!("{head}SELECT a FROM t"));
    assert!(label.contains("model.sql: line 1, column 68: the query has no column b"), "{label}");
    assert!(label.contains("input_label_cols"), "{label}");
    let kind = refused(&format!("{}SELECT a, b FROM t", head.replace("logistic", "linear")));
    assert!(kind.contains("model.sql: line 1, column 35: ") && kind.contains("logistic"), "{kind}");
    let sql = format!("{head}SELECT a, b FROM t");
    let twice = complaint(&train(root, &sql, &["--csv", "t=t.csv,T=t.csv"]));
    assert!(twice.contains("--csv gives the table T twice"), "{twice}");
    let file = complaint(&train(root, head, &["--csv", "t=none.csv"]));
    assert!(file.contains("none.csv") || file.contains("SELECT"), "{file}");
    assert!(!root.join("models").exists(), "a refused statement leaves nothing behind");
}

#[test]
fn rows_time_and_numbers_of_a_training_are_bounded() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::write(root.join("t.csv"), "a,y\n1,2\n1e200,3\n-1e200,4\n").unwrap();
    let head = "CREATE MODEL m OPTIONS(model_type='linear_reg', input_label_cols=['y']) AS\n";
    let refused = |select: &str, flags: &[&str]| {
        complaint(&train(
            root,
            &format!("{head}{select}"),
            &[&["--csv", "t=t.csv"], flags].concat(),
        ))
    };
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS a, i AS y FROM n";
    let time = refused(&format!("SELECT count(*) AS y FROM ({endless})"), &["--max-time", "200ms"]);
    assert!(time.contains("not done within 200ms") && time.contains("--max-time"), "{time}");
    let rows = refused(endless, &["--max-rows", "5000"]);
    assert!(rows.contains("more than 5000 rows") && rows.contains("--max-rows"), "{rows}");
    let import = refused("SELECT * FROM t", &["--max-rows", "2"]);
    assert!(import.contains("t.csv: more than 2 rows"), "{import}");
    let huge = refused("SELECT a, y FROM t", &[]);
    assert!(huge.contains("column a") && huge.contains("1e200"), "{huge}");
    let label = refused("SELECT y AS b, a AS y FROM t", &[]);
    assert!(label.contains("column y"), "{label}");
    let time = refused("SELECT 1", &["--max-time", "0s"]);
    assert!(time.contains("--max-time must be"), "{time}");
    assert!(!root.join("models").exists());
}

/// All numbers are valid, but the held-out ones differ so little that the error is not a finite
/// multiple of their spread.
#[test]
fn a_fit_without_a_finite_measure_is_not_written() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let rows = (1..10).map(|row| format!("{row},{row}e-160\n")).collect::<Vec<_>>().concat();
    fs::write(root.join("t.csv"), format!("a,y\n0,1e10\n{rows}")).unwrap();
    let sql = "CREATE MODEL m OPTIONS(model_type='linear_reg', input_label_cols=['y'])
        AS SELECT a, y FROM t";
    let told = complaint(&train(root, sql, &["--csv", "t=t.csv"]));
    assert!(told.contains("the fit has no finite measure"), "{told}");
    assert!(!root.join("models/m").exists());
}

#[test]
fn a_model_that_exists_is_kept_where_the_statement_says_so() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::write(root.join("t.csv"), "a,y\n1,2\n2,4\n3,6\n4,8\n").unwrap();
    let sql = "CREATE MODEL IF NOT EXISTS m
        OPTIONS(model_type='linear_reg', input_label_cols=['y']) AS (SELECT a, y FROM t);";
    let first = report(&train(root, sql, &["--csv", "t=t.csv"]));
    assert_eq!(first["version"], 1);
    assert!(root.join("models/m/1/model.toml").is_file());
    let second = report(&train(root, sql, &["--csv", "t=t.csv"]));
    assert_eq!((&second["version"], &second["trained"]), (&1.into(), &false.into()));
    assert!(!root.join("models/m/2").exists());
}
