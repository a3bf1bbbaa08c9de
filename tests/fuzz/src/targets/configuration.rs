//! A node's configuration file.

use crate::target::{Breach, Cap, Probe, Style, Target, ensure};
use mendblock::configuration::Configuration;
use mendblock::configuration::keys::{KEYS, Kind, Section};
use std::path::Path;

/// The TOML text.
pub(super) struct ConfigurationText;

impl Target for ConfigurationText {
    fn name(&self) -> &'static str {
        "configuration"
    }

    fn about(&self) -> &'static str {
        "the configuration file: TOML, keys, values, contradictions"
    }

    fn cap(&self) -> Cap {
        Cap {
            bytes: 16 << 20,
            because: "1 KiB for each byte of 16 KiB of the administrator's own text: a mistake for each line, which repeats \
                      at most 60 characters of a value",
        }
    }

    fn longest(&self) -> usize {
        16 << 10
    }

    fn expense(&self) -> u64 {
        4
    }

    fn style(&self) -> Style {
        Style::Text
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let examples = [
            include_str!("../../../../configs/minimal.toml"),
            include_str!("../../../../configs/pair-alice.toml"),
            include_str!("../../../../configs/pair-bob.toml"),
        ];
        // The comments are most of the text, and nothing is found in them.
        let bare = |text: &str| {
            let lines = text
                .lines()
                .filter(|line| !line.starts_with("# ") && !line.is_empty());
            lines
                .map(|line| line.trim_start_matches('#').to_owned() + "\n")
                .collect::<String>()
        };
        let faults = "[node]\nname = 'a'\nid = 1\n[[volume]]\nname = \"v\"\ndisk = \"/d\"\n\
                      [[volume.faults]]\nkind = \"read\"\nfirst-sector = 8\nsectors = 8\nerror = \"EIO\"\n\
                      mode = \"until-written\"\n[volume.handlers]\nlocal-io-error = \"/bin/true\"\n";
        let texts = examples
            .map(bare)
            .into_iter()
            .chain([faults.to_owned(), String::new()]);
        texts.map(String::into_bytes).collect()
    }

    fn words(&self) -> Vec<Vec<u8>> {
        let mut words: Vec<Vec<u8>> = Section::ALL.map(|section| section.header().into()).into();
        for key in KEYS {
            words.push(key.name.into());
            words.push(format!("\n{} = ", key.name).into_bytes());
            if let Kind::Choice { allowed, later, .. } = key.kind {
                words.extend(
                    allowed
                        .iter()
                        .chain(later)
                        .map(|word| format!("\"{word}\"").into_bytes()),
                );
            }
            if let Kind::Integer { min, max, .. } = key.kind {
                words.extend([min, max, max.wrapping_add(1)].map(|number| number.to_string().into_bytes()));
            }
        }
        let values = [
            "\"100M\"",
            "\"9999999999999G\"",
            "\"18014398509481983K\"",
            "\"[::1]:7789\"",
            "\"/\"",
            "\"r0\"",
        ];
        words.extend(values.map(|value| value.as_bytes().to_vec()));
        words
    }

    fn check(&self, input: &[u8], probe: &mut Probe) -> Result<(), Breach> {
        let Ok(text) = std::str::from_utf8(input) else {
            // Reading the file refuses it before it is parsed.
            return Ok(());
        };
        let parsed = probe.measured(|| Configuration::parse(text, Path::new("alice.toml")));
        match parsed {
            Ok(configuration) => {
                probe.outline("configuration", &configuration);
                let named = configuration
                    .volumes
                    .iter()
                    .all(|volume| configuration.volume(&volume.name).is_some());
                ensure(
                    named && !configuration.volumes.is_empty(),
                    "each volume is found by its name",
                    || format!("{configuration:?}"),
                )
            }
            Err(error) => {
                let mistakes = error.mistakes();
                for mistake in mistakes.iter().take(32) {
                    probe.outline(
                        "mistake",
                        &mistake
                            .reason
                            .chars()
                            .take(24)
                            .collect::<String>()
                            .replace('"', " "),
                    );
                    probe.feature(reason(&mistake.reason));
                }
                probe.feature(mistakes.len().checked_ilog2());
                ensure(!mistakes.is_empty(), "a refusal names a mistake", || {
                    error.to_string()
                })?;
                let lines = text.bytes().filter(|&byte| byte == b'\n').count() + 1;
                let within = mistakes
                    .iter()
                    .all(|mistake| (1..=lines).contains(&mistake.place.line));
                ensure(within, "a mistake is in a line of the file", || {
                    format!("{mistakes:?}")
                })?;
                let in_order = mistakes
                    .windows(2)
                    .all(|pair| pair[0].place.line <= pair[1].place.line);
                ensure(in_order, "mistakes are in the order of the lines", || {
                    format!("{mistakes:?}")
                })?;
                let explained = mistakes.iter().all(|mistake| !mistake.reason.is_empty());
                ensure(
                    explained && !error.to_string().is_empty(),
                    "a mistake has a reason",
                    || format!("{mistakes:?}"),
                )
            }
        }
    }
}

/// A reason without what it quotes.
fn reason(text: &str) -> String {
    let mut quoted = false;
    let kept = text.chars().filter(|&letter| {
        quoted ^= matches!(letter, '"' | '`');
        !quoted && letter.is_ascii_alphabetic()
    });
    kept.take(40).collect()
}
