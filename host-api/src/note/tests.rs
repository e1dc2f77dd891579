use super::*;

const CHECKPOINT: &str = "lifeboat/checkpoint/1";
const ROTATION: &str = "lifeboat/key-rotation/1";
const LOG: Family = Family { kinds: &[CHECKPOINT, ROTATION], names: Names::Epochs, note_bytes_max: 16 << 10 };
const PLAIN: Family = Family { names: Names::Plain, ..LOG };

fn signer(name: &str, seed: u8) -> Signer {
    Signer::new(name, &[seed; 32], LOG.names).unwrap()
}

fn plain(name: &str, seed: u8) -> Signer {
    Signer::new(name, &[seed; 32], Names::Plain).unwrap()
}

#[test]
fn a_verifier_is_the_one_text_of_its_key() {
    let text = signer("log/1", 7).verifier.to_string();
    assert_eq!(Verifier::parse(&text, LOG.names).unwrap().to_string(), text);
    for bad in [
        text.replacen("log/1", "log/2", 1),
        text.replacen("log/1", "log", 1),
        text.replacen("log/1", "log/01", 1),
        text.replacen("log/1", "lo g/1", 1),
        format!("{text}="),
        text.replace('+', " "),
    ] {
        assert!(Verifier::parse(&bad, LOG.names).is_err(), "{bad}");
    }
}

#[test]
fn a_note_holds_under_its_own_keys_in_their_order_and_no_others() {
    let (one, two) = (signer("log/1", 1), signer("log/2", 2));
    let text = "lifeboat/checkpoint/1\nsize 1\n";
    let signed = sign(text, &[&one, &two]);
    let note = Note::parse(&signed, &LOG).unwrap();
    assert_eq!(note.text, text);
    note.verify(&[&one.verifier, &two.verifier]).unwrap();
    let same_name = signer("log/1", 3);
    for keys in [&[&two.verifier, &one.verifier][..], &[&one.verifier], &[&same_name.verifier, &two.verifier], &[]] {
        assert!(note.verify(keys).is_err());
    }
    let more = format!("{signed}{}", signer("other/1", 4).line(text));
    assert!(Note::parse(&more, &LOG).unwrap().verify(&[&one.verifier, &two.verifier]).is_err(), "an unknown signature");
}

#[test]
fn every_flipped_bit_of_a_note_is_found() {
    let one = signer("log/1", 1);
    let signed = sign("lifeboat/checkpoint/1\nsize 1\n", &[&one]).into_bytes();
    for bit in 0..signed.len() * 8 {
        let mut bytes = signed.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let holds = String::from_utf8(bytes)
            .is_ok_and(|text| Note::parse(&text, &LOG).is_ok_and(|note| note.verify(&[&one.verifier]).is_ok()));
        assert!(!holds, "bit {bit}");
    }
}

#[test]
fn a_key_that_is_another_spelling_of_its_point_signs_nothing() {
    // The neutral element: whatever is signed, R = B and s = 1 hold under it. Spelled as it is, with a sign, with p added, with both.
    let mut signature = [0x66; 64];
    (signature[0], signature[32]) = (0x58, 1);
    signature[33..].fill(0);
    let spelled = |first: u8, rest: u8, last: u8| {
        let mut key = [rest; 32];
        (key[0], key[31]) = (first, last);
        let verifier = Verifier { name: "log/1".into(), key };
        let signed = STANDARD.encode([&verifier.hash()[..], &signature].concat());
        let note = format!("lifeboat/checkpoint/1\n\n{MARK}log/1 {signed}\n");
        Note::parse(&note, &LOG).unwrap().verify(&[&verifier])
    };
    spelled(1, 0, 0).unwrap();
    for (first, rest, last) in [(1, 0, 0x80), (0xee, 0xff, 0x7f), (0xee, 0xff, 0xff)] {
        let flaw = spelled(first, rest, last).unwrap_err();
        assert!(flaw.contains("does not hold"), "{flaw}");
    }
}

#[test]
fn base64_that_is_another_text_of_the_same_bytes_is_refused() {
    let one = signer("log/1", 1);
    let signed = sign("lifeboat/checkpoint/1\nsize 1\n", &[&one]);
    // 68 bytes leave four bits of the last letter unused, and one `=`.
    let at = signed.rfind('=').unwrap() - 1;
    let letter = signed.as_bytes()[at] as char;
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = alphabet.find(letter).unwrap();
    let other = alphabet.as_bytes()[value ^ 1] as char;
    let mut text = signed.clone();
    text.replace_range(at..=at, &other.to_string());
    let flaw = Note::parse(&text, &LOG).unwrap_err();
    assert!(flaw.contains("base64"), "{flaw}");
    for text in [signed.replace("=\n", "\n"), signed.replace("=\n", "==\n"), signed.replace("=\n", "=\n\n")] {
        assert!(Note::parse(&text, &LOG).is_err(), "{text}");
    }
}

#[test]
fn trust_names_keys_and_kinds() {
    let one = signer("log/1", 1).verifier;
    let trust = Trust::parse(&format!("{one} {CHECKPOINT}\n"), &LOG).unwrap();
    assert!(trust.allows(&one, CHECKPOINT) && !trust.allows(&one, ROTATION));
    assert!(!trust.allows(&signer("log/1", 2).verifier, CHECKPOINT));
    let both = Trust::of([one.clone()], &LOG);
    assert_eq!(Trust::parse(&both.to_string(), &LOG).unwrap().to_string(), both.to_string());
    for (bad, why) in [
        (String::new(), "a key is NAME+HASH+BASE64"),
        (format!("{one}\n"), "which kinds"),
        (format!("{one} lifeboat/manifest/1\n"), "there is: lifeboat/checkpoint/1"),
        (format!("{one}  {CHECKPOINT}\n"), "is no kind"),
        (format!("{one} {CHECKPOINT}\n\n"), "line 2"),
        (format!("{one} {CHECKPOINT}\r\n"), "is no kind"),
        (format!("{} {CHECKPOINT}\n", plain("log", 1).verifier), "ORIGIN/EPOCH"),
    ] {
        let flaw = Trust::parse(&bad, &LOG).unwrap_err();
        assert!(flaw.contains(why), "{flaw}");
    }
}

#[test]
fn who_signed_is_told_by_trust_alone() {
    let (good, other, stranger) = (plain("good", 1), plain("good", 2), plain("stranger", 3));
    let text = format!("{CHECKPOINT}\nwhatever\n");
    let trust =
        Trust::parse(&format!("{} {CHECKPOINT}\n{} {ROTATION}\n", good.verifier, stranger.verifier), &PLAIN).unwrap();
    let says = |note: &str, trust: &Trust| {
        let note = Note::parse(note, &PLAIN).unwrap();
        trust.signer(&note, CHECKPOINT).map(|key| key.name.clone())
    };
    assert_eq!(says(&sign(&text, &[&good]), &trust).unwrap(), "good");
    for (note, why) in [
        (sign(&text, &[&other]), "another key than the trusted one of the name good"),
        (sign(&text, &[&stranger]), "stranger may not sign lifeboat/checkpoint/1 here"),
        (sign(&text, &[&plain("nobody", 4)]), "signed by nobody, which is not trusted here"),
        (sign(&text, &[&good, &stranger]), "2 signatures, 1 expected"),
        (sign(&text, &[&good, &good]), "2 signatures, 1 expected"),
        (sign(&text, &[&good]).replace("whatever", "whatelse"), "its signature by good does not hold"),
    ] {
        let flaw = says(&note, &trust).unwrap_err();
        assert!(flaw.contains(why), "{flaw}");
    }
    // Both keys of one name are trusted, as while one follows the other.
    let both = Trust::of([other.verifier.clone(), good.verifier.clone()], &PLAIN);
    assert_eq!(says(&sign(&text, &[&good]), &both).unwrap(), "good");
    assert_eq!(says(&sign(&text, &[&other]), &both).unwrap(), "good");
    assert!(says(&sign(&text, &[&good]), &Trust::default()).is_err());
}

#[test]
fn a_text_of_one_line_has_one_form() {
    assert_eq!(body("kind/1\n{}\n", "kind/1").unwrap(), "{}");
    for (text, why) in [
        ("kind/1\n{}", "does not end"),
        ("kind/2\n{}\n", "it is no kind/1, it begins with `kind/2`"),
        ("\n{}\n", "it begins with ``"),
        ("kind/1\r\n{}\n", "it is no kind/1"),
        (" kind/1\n{}\n", "it is no kind/1"),
        ("kind/1\n", "says nothing"),
        ("kind/1\n\n", "says nothing"),
        ("kind/1\n{}\n{}\n", "a line too many"),
        ("", "does not end"),
    ] {
        let flaw = body(text, "kind/1").unwrap_err();
        assert!(flaw.contains(why), "{text:?}: {flaw}");
    }
}

#[test]
fn what_is_no_note_is_refused_wherever_it_goes_wrong() {
    let good = plain("good", 1);
    let signed = sign("kind/1\n{}\n", &[&good]);
    Note::parse(&signed, &PLAIN).unwrap();
    let line = signed.lines().last().unwrap().to_owned();
    let end = line.rsplit(' ').next().unwrap().to_owned();
    for (bad, why) in [
        (String::new(), "no empty line"),
        ("kind/1\n{}\n".into(), "no empty line"),
        ("kind/1\n{}\n\n".into(), "does not end"),
        ("kind/1\n{}\n\n\n".into(), "is no signature"),
        (signed.trim_end().to_owned(), "does not end"),
        (format!("{signed}\n"), "is no signature"),
        (format!("{signed}{line}"), "does not end"),
        (format!("{signed}\u{2014} x-no-signature {end}"), "does not end"),
        (format!("{signed}x-unknown 1\n"), "is no signature"),
        (signed.replace('\u{2014}', "-"), "is no signature"),
        (signed.replace('\u{2014}', "\u{2014} \u{2014}"), "is no name of a key"),
        (signed.replace(" good ", " good  "), "base64"),
        (signed.replace(" good ", " good/1 "), "is no name of a key"),
        (signed.replace(" good ", " g+d "), "is no name of a key"),
        (signed.replace(" good ", "  "), "is no name of a key"),
        (signed.replace(" good ", &format!(" {} ", "g".repeat(65))), "is no name of a key"),
        (signed.replace(&end, "AAAA"), "too short"),
        (signed.replace(&end, &STANDARD.encode([0; 67])), "not 64 bytes"),
        (signed.replace(&end, &STANDARD.encode([0; 69])), "not 64 bytes"),
        (signed.replace(&end, &format!("{end} ")), "base64"),
        (signed.replace(&end, &format!("{end}\r")), "base64"),
        (signed.replace(&end, &end.replace('=', "")), "base64"),
        (signed.replace(&end, ""), "too short"),
        (format!("{}{signed}", "x".repeat(16 << 10)), "too long"),
    ] {
        let flaw = Note::parse(&bad, &PLAIN).unwrap_err();
        assert!(flaw.contains(why), "{bad:?}: {flaw}");
    }
}

#[test]
fn a_private_line_gives_the_key_back_and_no_other_line_does() {
    let one = plain("good", 1);
    let line = one.private(&[1; 32]);
    assert_eq!(Signer::from_private(&line, Names::Plain).unwrap().verifier, one.verifier);
    for bad in [
        line.trim_end().to_owned(),
        format!("{line}\n"),
        line.replace("good", "evil"),
        line.replace("PRIVATE", "private"),
        one.verifier.to_string() + "\n",
        line.replace('A', "B"),
        String::new(),
    ] {
        assert!(Signer::from_private(&bad, Names::Plain).is_none(), "{bad}");
    }
    // A log's key signs no manifests, and the reverse.
    assert!(Signer::from_private(&line, Names::Epochs).is_none());
    assert!(Signer::from_private(&signer("log/1", 1).private(&[1; 32]), Names::Plain).is_none());
}
