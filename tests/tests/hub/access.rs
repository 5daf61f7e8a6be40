//! Tokens, private and gated models, unknown ones.

use super::*;

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let setup = Setup::new();
    setup.hub.rules().token = Some(TOKEN.into());
    let mut command = setup.quantize_command(REPOSITORY);
    command
        .args(["--verbosity", "debug"])
        .env("HF_TOKEN", TOKEN);
    let with_variable = run(command).expect_code(0);
    let log = setup.hub.take_log();
    for entry in &log {
        let expected = (entry.host == Host::Hub).then(|| format!("Bearer {TOKEN}"));
        assert_eq!(entry.authorization, expected, "{entry:?}");
    }
    assert!(log.iter().any(|entry| entry.host == Host::Storage));
    for text in [&with_variable.stdout, &with_variable.stderr] {
        assert!(
            !text.contains(TOKEN) && !text.contains("Signature"),
            "{text}"
        );
    }
    fs::remove_dir_all(setup.model_folder()).unwrap();
    fs::write(setup.home.path().join("token"), format!("{TOKEN}\n")).unwrap();
    setup.quantize(REPOSITORY).expect_code(0);
}

#[test]
fn private_models_need_a_token_that_may_read_them() {
    let setup = Setup::new();
    setup.hub.rules().token = Some(TOKEN.into());
    refusal(
        setup.info(REPOSITORY),
        3,
        "knows no model org/tiny-llama",
        "set HF_TOKEN",
    );
    let mut command = setup.command(&["info", REPOSITORY]);
    command.env("HF_TOKEN", "hf_wrong_one");
    let run = run(command);
    assert!(!run.stderr.contains("hf_wrong_one"), "{}", run.stderr);
    refusal(run, 4, "does not accept the token", "settings/tokens");
}

#[test]
fn gated_models_say_where_to_ask() {
    let setup = Setup::new();
    setup.hub.rules().gated = true;
    let page = format!("{}/{REPOSITORY}", setup.hub.url);
    let error = refusal(setup.quantize(REPOSITORY), 4, "gated", "HF_TOKEN");
    assert_eq!(error["error_type"], "AuthenticationRequiredError");
    assert!(error["suggestion"].as_str().unwrap().contains(&page));
    let mut command = setup.quantize_command(REPOSITORY);
    command.env("HF_TOKEN", TOKEN);
    refusal(
        run(command),
        4,
        "gated",
        &format!("open {page}, accept the terms"),
    );
}

#[test]
fn unknown_models_are_not_found() {
    let setup = Setup::new();
    let error = refusal(
        setup.info("org/other"),
        3,
        "no file or folder org/other",
        "spelling",
    );
    assert!(error["message"].as_str().unwrap().contains(&setup.hub.url));
    let mut command = setup.command(&["info", "org/other"]);
    command.env("HF_TOKEN", TOKEN);
    refusal(run(command), 3, "org/other", "token's account");
}
