//! The training data: what the query returns from SQLite, CSV files included.
//!
//! The database is opened read-only and CSV files become temporary tables, so training changes
//! nothing. Memory is bounded by the number of cells.

use super::lexer::{Complaint, place_of};
use super::statement::Statement;
use crate::{Error, repository::Cell, train::invalid};
use rusqlite::{Connection, OpenFlags, types::ValueRef};
use std::path::{Path, PathBuf};

/// Cells of the largest table that is trained on.
const MAX_CELLS: usize = 50_000_000;

/// A CSV file and the name of the table it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CsvTable {
    /// The table.
    pub(super) name: String,
    /// The file.
    pub(super) path: PathBuf,
}

/// Rows of named columns; `None` is NULL.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Frame {
    /// Column names.
    pub(super) names: Vec<String>,
    /// Cells in column order.
    pub(super) rows: Vec<Vec<Option<Cell>>>,
}

impl std::str::FromStr for CsvTable {
    type Err = String;

    /// `name=path`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok(Self { name: name.to_owned(), path: path.into() })
            }
            _ => Err("write TABLE=FILE, as iris=data/iris.csv".to_owned()),
        }
    }
}

/// Opens the database, read-only; without one the CSV files are all there is.
pub(super) fn open(path: Option<&Path>) -> Result<Connection, Error> {
    let Some(path) = path else {
        return Connection::open_in_memory().map_err(|e| Error::Invalid(e.to_string()));
    };
    if !path.is_file() {
        return Err(invalid(path, "there is no such database"));
    }
    let open = || {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
        Ok(connection)
    };
    open().map_err(|e: rusqlite::Error| invalid(path, e))
}

/// Makes a CSV file with a header a temporary table; a column of numbers becomes numeric.
pub(super) fn import(connection: &Connection, table: &CsvTable) -> Result<usize, Error> {
    let complain = |e: &dyn std::fmt::Display| invalid(&table.path, e);
    let mut reader = csv::Reader::from_path(&table.path).map_err(|e| complain(&e))?;
    let header = reader.headers().map_err(|e| complain(&e))?.clone();
    if header.iter().any(|name| name.trim().is_empty()) {
        return Err(complain(&"the first line must name every column"));
    }
    let records = reader.records().collect::<Result<Vec<_>, _>>().map_err(|e| complain(&e))?;
    let columns: Vec<String> = header
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let number = |value: &str| value.is_empty() || value.parse::<f64>().is_ok();
            let numeric = records.iter().all(|r| r.get(i).is_none_or(|v| number(v.trim())));
            format!("{} {}", quoted(name.trim()), if numeric { "REAL" } else { "TEXT" })
        })
        .collect();
    let name = quoted(&table.name);
    let marks = vec!["nullif(trim(?), '')"; columns.len()].join(", ");
    let write = || {
        connection.execute_batch("BEGIN")?;
        connection.execute(&format!("CREATE TEMP TABLE {name} ({})", columns.join(", ")), [])?;
        let mut insert = connection.prepare(&format!("INSERT INTO {name} VALUES ({marks})"))?;
        for record in &records {
            insert.execute(rusqlite::params_from_iter(record.iter()))?;
        }
        connection.execute_batch("COMMIT")
    };
    write().map_err(|e: rusqlite::Error| complain(&e))?;
    Ok(records.len())
}

/// Runs the query of `statement`, which came from the file `path` with contents `text`.
pub(super) fn query(
    connection: &Connection,
    statement: &Statement,
    path: &Path,
    text: &str,
) -> Result<Frame, Error> {
    select(connection, &statement.query).map_err(|error| {
        let (offset, message) = match error {
            Refusal::Sql(rusqlite::Error::SqlInputError { msg, offset, .. }) => {
                (usize::try_from(offset).unwrap_or(0), msg)
            }
            Refusal::Sql(rusqlite::Error::MultipleStatement) => {
                (0, "the file holds one statement: remove what follows the query".to_owned())
            }
            Refusal::Sql(other) => (0, other.to_string()),
            Refusal::Data(message) => (0, message),
        };
        let (offset, message) = match message.strip_prefix("no such table: ") {
            // SQLite gives no offset for a table.
            Some(table) => (statement.query.find(table).unwrap_or(0), tables(connection, &message)),
            None if message.starts_with("no such column: ") => {
                (offset, columns(connection, &message))
            }
            None => (offset, message),
        };
        let place = place_of(text, statement.query_start + offset);
        invalid(path, Complaint { place, message })
    })
}

enum Refusal {
    Sql(rusqlite::Error),
    Data(String),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

fn select(connection: &Connection, query: &str) -> Result<Frame, Refusal> {
    let mut statement = connection.prepare(query)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            let message = format!("two columns are named {name}: name one of them with AS");
            return Err(Refusal::Data(message));
        }
    }
    let mut rows = Vec::new();
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        if (rows.len() + 1) * names.len() > MAX_CELLS {
            let message =
                format!("more than {MAX_CELLS} cells: add LIMIT, or select fewer columns");
            return Err(Refusal::Data(message));
        }
        let cells = (0..names.len()).map(|i| cell(row.get_ref(i)?, &names[i]));
        rows.push(cells.collect::<Result<Vec<_>, _>>()?);
    }
    if rows.is_empty() {
        return Err(Refusal::Data("the query returns no rows".to_owned()));
    }
    Ok(Frame { names, rows })
}

fn cell(value: ValueRef<'_>, column: &str) -> Result<Option<Cell>, Refusal> {
    match value {
        ValueRef::Null => Ok(None),
        ValueRef::Integer(number) => Ok(Some(Cell::Number(number as f64))),
        ValueRef::Real(number) if number.is_finite() => Ok(Some(Cell::Number(number))),
        ValueRef::Real(_) => {
            Err(Refusal::Data(format!("column {column} holds an infinite number")))
        }
        ValueRef::Text(text) => Ok(Some(Cell::Text(String::from_utf8_lossy(text).into_owned()))),
        ValueRef::Blob(_) => {
            Err(Refusal::Data(format!("column {column} holds bytes: select numbers and texts")))
        }
    }
}

/// Tables and views, those of CSV files included.
const TABLES: &str = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')
                      UNION SELECT name FROM sqlite_temp_master";

/// The first twenty names that a query finds, as a list.
fn names(connection: &Connection, sql: &str) -> rusqlite::Result<String> {
    let mut statement = connection.prepare(&format!("{sql} LIMIT 20"))?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    Ok(names.collect::<Result<Vec<_>, _>>()?.join(", "))
}

/// SQLite's message about a missing column, with those that the tables have.
fn columns(connection: &Connection, message: &str) -> String {
    let sql = format!("SELECT DISTINCT c.name FROM ({TABLES}) t, pragma_table_info(t.name) c");
    let columns = names(connection, &sql).unwrap_or_default();
    format!("{message}; the tables have {columns}")
}

/// SQLite's message about a missing table, with those there are.
fn tables(connection: &Connection, message: &str) -> String {
    let tables = names(connection, &format!("{TABLES} ORDER BY name")).unwrap_or_default();
    let have =
        if tables.is_empty() { "there are none".to_owned() } else { format!("there are {tables}") };
    format!("{message}; {have}: name a file with --db, or import one with --csv TABLE=FILE")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::sql::statement;

    fn run(csv: &str, select: &str) -> Result<Frame, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        std::fs::write(&path, csv).unwrap();
        let connection = open(None).unwrap();
        import(&connection, &CsvTable { name: "t".to_owned(), path }).map_err(|e| e.to_string())?;
        let text = format!("CREATE MODEL m OPTIONS(model_type='linear_reg') AS\n{select}");
        let statement = statement::parse(&text).unwrap();
        query(&connection, &statement, Path::new("m.sql"), &text).map_err(|e| e.to_string())
    }

    #[test]
    fn numbers_texts_and_gaps_of_a_csv_file_keep_their_kind() {
        let frame = run("a,b b\n1, x\n2.5,\n", "SELECT * FROM t").unwrap();
        assert_eq!(frame.names, ["a", "b b"]);
        let text = Some(Cell::Text("x".to_owned()));
        let expected =
            vec![vec![Some(Cell::Number(1.0)), text], vec![Some(Cell::Number(2.5)), None]];
        assert_eq!(frame.rows, expected);
    }

    #[test]
    fn sqlites_complaints_name_the_place_in_the_file() {
        let refused = |select: &str| run("a,b\n1,2\n", select).unwrap_err();
        let missing = refused("SELECT a,\n  wrong FROM t");
        assert!(missing.contains("m.sql: line 3, column 3: no such column: wrong"), "{missing}");
        assert!(missing.contains("the tables have a, b"), "{missing}");
        let table = refused("SELECT * FROM u");
        assert!(
            table.contains("line 2, column 15: no such table: u") && table.contains("there are t"),
            "{table}"
        );
        assert!(refused("SELECT a, a FROM t").contains("AS"));
        assert!(refused("SELECT * FROM t WHERE a > 9").contains("no rows"));
        assert!(refused("SELECT * FROM t; DROP TABLE t").contains("one statement"));
        assert!(refused("WITH x AS (SELECT 1) DELETE FROM t").contains("no rows"));
        assert!(run("a,\n1,2\n", "SELECT * FROM t").unwrap_err().contains("name every column"));
        assert!(run("a,b\n1\n", "SELECT * FROM t").unwrap_err().contains("t.csv"));
    }

    #[test]
    fn a_database_is_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.sqlite");
        let writable = Connection::open(&path).unwrap();
        writable.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
        drop(writable);
        let connection = open(Some(&path)).unwrap();
        let text = "CREATE MODEL m OPTIONS(model_type='linear_reg') AS WITH x AS (SELECT 1)\
                    DELETE FROM t";
        let statement = statement::parse(text).unwrap();
        let error = query(&connection, &statement, Path::new("m.sql"), text).unwrap_err();
        assert!(error.to_string().contains("readonly"), "{error}");
        assert!(open(Some(&dir.path().join("none.sqlite"))).is_err());
        std::fs::write(dir.path().join("text"), "not a database, but long enough to be read so")
            .unwrap();
        assert!(open(Some(&dir.path().join("text"))).is_err());
    }
}
