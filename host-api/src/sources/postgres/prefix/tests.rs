use super::*;

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// What the prefix becomes when it carries the password.
#[track_caller]
fn carries(prefix: &str) -> String {
    Prefix::parse(&words(prefix)).unwrap().words(Some(PASSWORD)).unwrap().join(" ")
}

#[test]
fn a_password_goes_by_name_through_each_program_that_needs_it_named() {
    for same in [
        "nice -n 5",
        "env A=b",
        "setpriv --reuid=postgres --regid postgres --clear-groups --",
        "runuser -u postgres --",
    ] {
        assert_eq!(carries(same), same);
    }
    for (prefix, becomes) in [
        ("sudo -n -u postgres", "sudo --preserve-env=PGPASSWORD -n -u postgres"),
        ("sudo -nu postgres --", "sudo --preserve-env=PGPASSWORD -nu postgres --"),
        ("docker exec -i db", "docker exec -e PGPASSWORD -i db"),
        (
            "/usr/bin/docker --context far container exec -iu postgres db",
            "/usr/bin/docker --context far container exec -e PGPASSWORD -iu postgres db",
        ),
        (
            "docker compose --env-file /srv/.env -f a.yml exec -T db",
            "docker compose --env-file /srv/.env -f a.yml exec -e PGPASSWORD -T db",
        ),
        (
            "docker-compose -f a.yml exec -T db gosu postgres",
            "docker-compose -f a.yml exec -e PGPASSWORD -T db gosu postgres",
        ),
        ("sudo -n docker exec -i db", "sudo --preserve-env=PGPASSWORD -n docker exec -e PGPASSWORD -i db"),
        ("ssh -p 22 db1", "ssh -o SendEnv=PGPASSWORD -p 22 db1"),
        (
            "ssh db1 -p 22 sudo -u a docker exec -i db",
            "ssh -o SendEnv=PGPASSWORD db1 -p 22 'sudo' '--preserve-env=PGPASSWORD' '-u' 'a' 'docker' 'exec' '-e' 'PGPASSWORD' '-i' 'db'",
        ),
    ] {
        assert_eq!(carries(prefix), becomes);
    }
}

#[test]
fn a_password_that_would_be_lost_is_refused_and_without_one_all_is_well() {
    for prefix in [
        "kubectl -n prod exec -i pod/db-0 -c db --",
        "env -i",
        "env - A=b",
        "setpriv --reset-env --reuid postgres",
        "doas -u postgres",
        "/opt/own-wrapper --to db",
        "docker run --rm -i postgres:15",
        "ssh db1 kubectl exec -i db-0 --",
    ] {
        let prefix = Prefix::parse(&words(prefix)).unwrap();
        let error = prefix.check_password().unwrap_err();
        assert_eq!(error.kind, crate::ErrorKind::Refused, "{error}");
        assert!(error.hint.as_ref().unwrap().contains("PGPASSFILE"), "{error}");
        prefix.words(None).unwrap();
    }
}

#[test]
fn what_would_mangle_bytes_or_words_is_refused() {
    for (prefix, says) in [
        ("docker exec db", "without -i"),
        ("docker exec -it db", "terminal"),
        ("docker exec -i --tty db", "terminal"),
        ("docker exec -i -d db", "does not wait"),
        ("docker exec -i", "names no container"),
        ("docker exec -i -u", "ends in the middle"),
        ("docker", "ends in the middle"),
        ("docker compose exec db", "without -T"),
        ("docker-compose exec -T", "names no service"),
        ("kubectl exec -i db-0", "needs `--`"),
        ("kubectl exec db-0 --", "without -i"),
        ("kubectl exec -it db-0 --", "terminal"),
        ("ssh", "names no host"),
        ("ssh -tt db1", "terminal"),
        ("ssh db1 -n", "no standard input"),
        ("sudo -i -u postgres", "shell"),
        ("sudo -S -u postgres", "no standard input"),
        ("sudo -u", "ends in the middle"),
        ("runuser postgres -c", "-u"),
        ("su postgres -c", "as one text"),
        ("env -S a", "takes a text apart"),
        ("/opt/own-wrapper ssh db1", "not known"),
        ("docker exec -i -e PGPASSWORD=hunter2 db", "show a password"),
        ("env PGPASSWORD=hunter2", "show a password"),
    ] {
        let error = Prefix::parse(&words(prefix)).unwrap_err();
        assert_eq!(error.kind, crate::ErrorKind::Refused, "{prefix}: {error}");
        assert!(error.message.contains(says) && error.hint.is_some(), "{prefix}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn words_arrive_as_they_are_through_any_number_of_shells() {
    let hostile = "it's; $(echo gone) `x` \"\\ *\n";
    for (prefix, shells) in [("nice", 0), ("ssh a", 1), ("ssh a ssh -p 1 b", 2)] {
        let prefix = Prefix::parse(&words(prefix)).unwrap();
        let mut word = prefix.word(hostile);
        for _ in 0..shells {
            let out = std::process::Command::new("sh").args(["-c", &format!("printf %s. {word}")]).output().unwrap();
            word = String::from_utf8(out.stdout).unwrap().strip_suffix('.').unwrap().to_owned();
        }
        assert_eq!(word, hostile);
    }
    let prefix = Prefix::parse(&words("ssh a ssh -p 1 b nice")).unwrap();
    assert_eq!(prefix.words(None).unwrap()[2..], ["'ssh'", "'-p'", "'1'", "'b'", "''\\''nice'\\'''"]);
    let empty = Prefix::parse(&[]).unwrap();
    assert!(empty.is_empty() && empty.words(Some(PASSWORD)).unwrap().is_empty());
}
