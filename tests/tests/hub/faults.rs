//! What goes wrong on the way.

use super::*;

#[test]
fn a_broken_connection_is_taken_up_where_it_ended() {
    let setup = Setup::new();
    let size = setup.hub.size(WEIGHTS);
    // The first two answers carry the header; then the tokenizer and the weights come.
    let few = setup.hub.size("tokenizer.json") + 1;
    setup.info(REPOSITORY).expect_code(0);
    setup.hub.rules().cuts = [8, size, 3_000_000, few, 2_000_000].into();
    setup.hub.take_log();
    let run = setup.quantize(REPOSITORY).expect_code(0);
    assert!(
        run.stderr
            .contains("broke off while sending model.safetensors"),
        "{}",
        run.stderr
    );
    let log: Vec<_> = setup.weights_log().split_off(2);
    let starts = [
        None,
        Some(3_000_000),
        Some(3_000_000 + few),
        Some(5_000_000 + few),
    ];
    assert_eq!(ranges(&log), starts);
    assert_eq!(sent(&log), size);
}

#[test]
fn an_interrupted_download_is_kept_and_goes_on() {
    let setup = Setup::new();
    let size = setup.hub.size(WEIGHTS);
    setup.info(REPOSITORY).expect_code(0);
    setup.hub.rules().bytes_per_second = Some(2_000_000);
    let child = setup
        .quantize_command(REPOSITORY)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let incomplete = setup.incomplete(WEIGHTS);
    wait_until("a part of the download", || size_of(&incomplete) > 500_000);
    let begin = Instant::now();
    interrupt(&child);
    let run: Run = child.wait_with_output().unwrap().into();
    refusal(run, 130, "interrupted", "goes on");
    assert!(begin.elapsed() < Duration::from_secs(3));
    let kept = size_of(&incomplete);
    assert!(kept > 500_000 && kept < size);
    assert!(!setup.model_folder().join("refs/main").exists());

    setup.hub.rules().bytes_per_second = None;
    setup.hub.take_log();
    let run = setup.quantize(REPOSITORY).expect_code(0);
    assert!(run.stderr.contains("from last time"), "{}", run.stderr);
    let log: Vec<_> = setup.weights_log().split_off(2);
    assert_eq!(ranges(&log), [Some(kept)]);
    assert_eq!(sent(&log), size - kept);
    assert!(!incomplete.exists());
}

fn interrupt(child: &Child) {
    let status = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn an_interrupt_does_not_wait_for_a_silent_server() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = Setup::new();
    let mut command = setup.quantize_command(REPOSITORY);
    let address = format!("http://{}", silent.local_addr().unwrap());
    let child = command
        .env("HF_ENDPOINT", address)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let connection = silent.accept().unwrap();
    let begin = Instant::now();
    interrupt(&child);
    let run: Run = child.wait_with_output().unwrap().into();
    assert!(begin.elapsed() < Duration::from_secs(5));
    drop(connection);
    refusal(run, 130, "interrupted", "again");
}

#[test]
fn a_part_that_the_server_does_not_continue_is_got_anew() {
    let setup = Setup::new();
    setup.info(REPOSITORY).expect_code(0);
    let incomplete = setup.incomplete(WEIGHTS);
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    fs::write(&incomplete, &bytes_of(WEIGHTS)[..1_000_000]).unwrap();
    setup.hub.rules().no_ranges = true;
    setup.quantize(REPOSITORY).expect_code(0);
    assert_eq!(sha256(&setup.blob(WEIGHTS)), setup.hub.hash(WEIGHTS));
}

#[test]
fn a_part_of_something_else_is_noticed_and_dropped() {
    let setup = Setup::new();
    let incomplete = setup.incomplete(WEIGHTS);
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    fs::write(&incomplete, vec![7; 1_000_000]).unwrap();
    let run = setup.quantize(REPOSITORY).expect_code(0);
    assert!(
        run.stderr.contains("downloading it again"),
        "{}",
        run.stderr
    );
    fs::remove_file(setup.blob(WEIGHTS)).unwrap();
    fs::write(&incomplete, vec![7; setup.hub.size(WEIGHTS) as usize + 1]).unwrap();
    setup.quantize(REPOSITORY).expect_code(0);
    assert_eq!(sha256(&setup.blob(WEIGHTS)), setup.hub.hash(WEIGHTS));
}

#[test]
fn a_busy_hub_is_given_the_time_that_it_asks_for() {
    let setup = Setup::new();
    let date = httpdate(SystemTime::now() + Duration::from_secs(3));
    setup.hub.rules().busy = [(429, Some("1".into())), (503, None), (503, Some(date))].into();
    let begin = Instant::now();
    let run = setup.info(REPOSITORY).expect_code(0);
    assert!(
        begin.elapsed() > Duration::from_millis(2000),
        "{:?}",
        begin.elapsed()
    );
    for line in [
        "too many requests (429); trying again in 1.0 s",
        "status 503",
    ] {
        assert!(run.stderr.contains(line), "{}", run.stderr);
    }
    setup.hub.rules().busy = [(429, Some("86400".into()))].into();
    let begin = Instant::now();
    refusal(
        setup.info(REPOSITORY),
        1,
        "it asks to wait for 24:00:00",
        "spelling",
    );
    assert!(begin.elapsed() < Duration::from_secs(5));
}

fn httpdate(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let output = Command::new("date")
        .args([
            "-u",
            "-d",
            &format!("@{seconds}"),
            "+%a, %d %b %Y %H:%M:%S GMT",
        ])
        .env("LC_ALL", "C")
        .output();
    String::from_utf8(output.unwrap().stdout)
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn a_file_of_another_length_is_refused_with_both() {
    let setup = Setup::new();
    setup.info(REPOSITORY).expect_code(0);
    setup.hub.rules().shorter = 5;
    let size = setup.hub.size(WEIGHTS);
    let error = refusal(setup.quantize(REPOSITORY), 6, &size.to_string(), "proxy");
    let found = (size - 5).to_string();
    assert!(
        error["message"].as_str().unwrap().contains(&found),
        "{error}"
    );
    assert!(!setup.blob(WEIGHTS).exists());
}

#[test]
fn a_damaged_file_is_got_once_more_and_then_refused() {
    let setup = Setup::new();
    setup.info(REPOSITORY).expect_code(0);
    setup.hub.rules().damaged = 2;
    refusal(
        setup.quantize(REPOSITORY),
        6,
        "model.safetensors came with the hash",
        "try again",
    );
    assert!(!setup.blob(WEIGHTS).exists() && !setup.incomplete(WEIGHTS).exists());
    setup.hub.rules().damaged = 1;
    let run = setup.quantize(REPOSITORY).expect_code(0);
    assert!(
        run.stderr.contains("downloading it again"),
        "{}",
        run.stderr
    );
    assert_eq!(sha256(&setup.blob(WEIGHTS)), setup.hub.hash(WEIGHTS));
}

#[test]
fn a_download_that_does_not_fit_is_not_begun() {
    let setup = Setup::new();
    setup.hub.rules().claimed_size = Some(1 << 60);
    let run = setup.quantize(REPOSITORY);
    let error = refusal(run, 13, "the download needs 1153 PB", "HF_HOME");
    assert_eq!(error["error_type"], "DiskSpaceError");
    assert_eq!(sent(&setup.weights_log()), 0);
}

#[test]
fn two_programs_download_a_file_once() {
    let setup = Setup::new();
    setup.info(REPOSITORY).expect_code(0);
    setup.hub.rules().bytes_per_second = Some(4_000_000);
    setup.hub.take_log();
    let other = tempfile::tempdir().unwrap();
    let mut second = setup.command(&["quantize", REPOSITORY, "gguf", "-q", "Q4_0", "-o"]);
    let second = second
        .arg(other.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    setup.quantize(REPOSITORY).expect_code(0);
    let run: Run = second.wait_with_output().unwrap().into();
    run.expect_code(0);
    let whole = setup.weights_log();
    let whole = whole.iter().filter(|entry| entry.range.is_none());
    assert_eq!(
        whole.map(|entry| entry.sent).collect::<Vec<_>>(),
        [setup.hub.size(WEIGHTS)]
    );
}
