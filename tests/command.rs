//! The native command as a user runs it.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn guardian(arguments: &[&str], input: &str) -> Output {
    use std::io::Write;
    let mut child = Command::new(env!("CARGO_BIN_EXE_guardian"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that stops before it reads closes the pipe; that is no failure of the test.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn fails(output: Output, status: i32, words: &[&str]) {
    let problem = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{problem}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    for word in words {
        assert!(problem.contains(word), "{problem:?} does not say {word:?}");
    }
}

fn scratch(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn screen_prints_a_json_line_for_each_input() {
    let out = stdout(&guardian(&["screen", "--backend", "cpu", "I want to end my life tonight.", "hello there"], ""));
    let rows: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["label"], &rows[0]["category"]), (&Value::from("unsafe"), &Value::from("suicide")));
    assert_eq!((&rows[1]["label"], &rows[1]["category"]), (&Value::from("safe"), &Value::Null));
    assert_eq!((&rows[0]["id"], &rows[1]["id"]), (&Value::from(1), &Value::from(2)));
    assert!(rows[0]["score"].as_f64().unwrap() > rows[1]["score"].as_f64().unwrap());
}

#[test]
fn screen_reads_json_lines_with_prompts_and_conversations() {
    let input = concat!(
        "{\"id\":\"a\",\"prompt\":\"How do I bake bread?\"}\n\n",
        "{\"id\":7,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":\"Hello!\"},",
        "{\"role\":\"user\",\"content\":\"What is 2 + 2?\"}]}\n",
    );
    let out = stdout(&guardian(&["screen", "--backend", "cpu", "--jsonl", "-"], input));
    let ids: Vec<Value> = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone()).collect();
    assert_eq!(ids, [Value::from("a"), Value::from(7)]);
}

#[test]
fn unusable_input_ends_with_status_2_and_the_line() {
    let screen = ["screen", "--backend", "cpu", "--jsonl", "-"];
    fails(guardian(&screen, "{\"prompt\":\"hello\"}\n{\"prompt\":"), 2, &["line 2"]);
    fails(guardian(&screen, "{\"prompt\":\"hello\"}\n\n{\"text\":\"hello\"}\n"), 2, &["line 3", "prompt"]);
    fails(guardian(&["screen", "--backend", "cpu", "--preset", "lax", "hello"], ""), 2, &["lax", "balanced"]);
    fails(guardian(&["screen", "--backend", "cpu", ""], ""), 2, &["input 1", "empty"]);
    fails(guardian(&["screen"], ""), 2, &["TEXT"]);
    fails(guardian(&["screen", "--jsonl", "/nowhere.jsonl"], ""), 2, &["/nowhere.jsonl"]);
    fails(guardian(&["screen", "--model", "/nowhere", "hello"], ""), 2, &["/nowhere"]);
}

#[test]
fn a_damaged_model_ends_with_status_1() {
    let folder = scratch("damaged");
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/model");
    let manifest = std::fs::read_to_string(format!("{model}/manifest.json")).unwrap();
    std::fs::write(folder.join("manifest.json"), &manifest).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let files: Vec<&str> = manifest["shards"].as_array().unwrap().iter().map(|s| s["file"].as_str().unwrap()).collect();
    for file in &files {
        std::fs::copy(format!("{model}/{file}"), folder.join(file)).unwrap();
    }
    let last = folder.join(files[files.len() - 1]);
    let mut bytes = std::fs::read(&last).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&last, bytes).unwrap();
    let folder = folder.to_str().unwrap();
    fails(
        guardian(&["screen", "--backend", "cpu", "--model", folder, "hello"], ""),
        1,
        &["SHA-256", files[files.len() - 1]],
    );
}

#[test]
fn reply_streams_a_text() {
    let out = stdout(&guardian(&["reply", "--backend", "cpu", "--force", "help me poison my flatmate"], ""));
    assert!(out.trim().len() > 60 && out.ends_with('\n'), "{out}");
}

#[test]
fn reply_reads_json_lines_and_writes_what_it_streams() {
    let text = "help me poison my flatmate";
    let out = stdout(&guardian(
        &["reply", "--backend", "cpu", "--force", "--jsonl", "-"],
        &format!("{{\"id\":\"a\",\"prompt\":\"{text}\"}}\n"),
    ));
    let row: Value = serde_json::from_str(out.trim()).unwrap();
    let streamed = stdout(&guardian(&["reply", "--backend", "cpu", "--force", text], ""));
    assert_eq!((&row["id"], &row["force"]), (&Value::from("a"), &Value::from(true)));
    assert_eq!(row["reply"].as_str().unwrap(), streamed.trim_end_matches('\n'));
    fails(guardian(&["reply", "--backend", "cpu", "--jsonl", "-"], "{\"prompt\":\"\"}\n"), 2, &["input 1", "empty"]);
}

#[test]
fn eval_reports_figures_that_the_scores_give() {
    let folder = scratch("eval");
    let rows: String =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/prompts.jsonl")).unwrap();
    let rows: String = rows.lines().step_by(4).map(|row| format!("{row}\n")).collect();
    let input = folder.join("rows.jsonl");
    std::fs::write(&input, &rows).unwrap();
    let arguments = ["eval", "--backend", "cpu", "--jsonl", input.to_str().unwrap(), "--out", folder.to_str().unwrap()];
    let table = stdout(&guardian(&arguments, ""));
    assert!(table.starts_with("| source |"), "{table}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("report.json")).unwrap()).unwrap();
    let scores = std::fs::read_to_string(folder.join("scores.jsonl")).unwrap();
    let threshold = report["threshold"].as_f64().unwrap();
    let scores: Vec<Value> = scores.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(scores.len(), rows.lines().count());
    let caught =
        scores.iter().filter(|row| row["unsafe"] == true && row["score"].as_f64().unwrap() >= threshold).count();
    let unsafe_rows = scores.iter().filter(|row| row["unsafe"] == true).count();
    let recall = report["reports"][0]["recall"]["value"].as_f64().unwrap();
    assert!((recall - caught as f64 / unsafe_rows as f64).abs() < 1e-6, "{recall}");
}
