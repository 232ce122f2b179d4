//! The SQL of README.md runs, in order, in one fresh database, and prints what the README says it prints.

use crate::cluster::client_program;
use crate::support::{Address, Database};

struct Block {
    line: usize,
    sql: String,
    /// The `text` or `output` block that follows, if one does.
    shown: Option<String>,
}

fn blocks(readme: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut lines = readme.lines().enumerate();
    let mut after_sql = false;
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix("```") else {
            // Only prose between keeps the output with its block; a heading starts something else.
            after_sql &= !line.starts_with('#');
            continue;
        };
        let mut body = String::new();
        for (_, inner) in lines.by_ref() {
            if inner.trim_start().starts_with("```") {
                break;
            }
            body.push_str(inner);
            body.push('\n');
        }
        match info.trim() {
            "sql" => {
                found.push(Block { line: number + 1, sql: body, shown: None });
                after_sql = true;
            }
            "text" | "output" if after_sql => {
                found.last_mut().expect("a block came before").shown = Some(body);
                after_sql = false;
            }
            _ => after_sql = false,
        }
    }
    found
}

/// Drops what differs from run to run (ids, times, column widths) and psql's command tags.
fn normalised(text: &str) -> Vec<String> {
    const TAGS: [&str; 18] = [
        "CREATE", "INSERT", "UPDATE", "DELETE", "SET", "RESET", "BEGIN", "COMMIT", "ROLLBACK", "CALL", "ALTER", "DROP",
        "DO", "COPY", "GRANT", "REVOKE", "TRUNCATE", "MERGE",
    ];
    text.lines()
        .map(|line| {
            let words: Vec<String> = line.split_whitespace().map(variable_parts_out).collect();
            words.join(" ")
        })
        .filter(|line| !line.is_empty() && !line.chars().all(|c| "-+ ".contains(c)))
        .filter(|line| !TAGS.contains(&line.split(' ').next().unwrap_or_default()) || line.contains('|'))
        .collect()
}

/// A uuid or a timestamp's digits, wherever they stand in the word.
fn variable_parts_out(word: &str) -> String {
    let digits = word.chars().filter(char::is_ascii_digit).count();
    let is_uuid = word.matches('-').count() >= 4 && word.len() >= 36;
    let is_clock = word.contains(':') && digits >= 4;
    let is_date = word.matches('-').count() == 2 && digits >= 8;
    if is_uuid || is_clock || is_date {
        word.chars().filter(|c| !c.is_ascii_hexdigit() && !"-:.+Z".contains(*c)).collect::<String>() + "~"
    } else {
        word.to_string()
    }
}

#[test]
fn readme_sql_runs_and_prints_what_it_shows() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let Ok(readme) = std::fs::read_to_string(path) else {
        eprintln!("no README.md yet: nothing to run");
        return;
    };
    let blocks = blocks(&readme);
    let at = Address::from_env();
    let db = Database::bare(&at, "readme");
    if !blocks.iter().any(|b| b.sql.to_uppercase().contains("CREATE EXTENSION")) {
        db.session().run("CREATE EXTENSION threadline_forensics");
    }
    let mut script = String::new();
    for block in &blocks {
        script.push_str(&format!("\\echo @@ {}\n{}\n", block.line, block.sql));
    }
    let output =
        client_program("psql", &at, &db.name, &["-X", "-v", "ON_ERROR_STOP=1", "-P", "pager=off"], script.as_bytes());
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let at_line = printed.lines().filter_map(|l| l.strip_prefix("@@ ")).next_back().unwrap_or("0");
    assert!(
        output.status.success(),
        "README.md, the block at line {at_line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    for block in blocks.iter().filter(|b| b.shown.is_some()) {
        let marker = format!("@@ {}\n", block.line);
        let rest = printed.split_once(&marker).expect("the block ran").1;
        let got = rest.split("@@ ").next().unwrap_or_default();
        let shown = block.shown.as_deref().unwrap_or_default();
        assert_eq!(
            normalised(got),
            normalised(shown),
            "README.md, the output shown for the block at line {}; it printed:\n{got}",
            block.line
        );
    }
}
