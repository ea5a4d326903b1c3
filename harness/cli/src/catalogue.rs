//! The catalogue's page: every scenario, what moves in which, and where one is left out.

use std::collections::{BTreeMap, BTreeSet};

use latchkey_record::{Outcome, PcrIndex};
use latchkey_scenario::Scenario;

/// The catalogue's page: by flow, each scenario with its images, outcomes and source.
pub(crate) fn catalogue(scenarios: &[Scenario]) -> String {
    let mut flows: BTreeMap<&str, Vec<&Scenario>> = BTreeMap::new();
    for scenario in scenarios {
        flows.entry(&scenario.flow).or_default().push(scenario);
    }
    let rows: usize = scenarios.iter().map(|scenario| scenario.machine.image.names().len()).sum();
    let mut page = format!(
        "# The catalogue\n\n{} scenarios, {rows} rows (a scenario on an image). Written by `cargo xtask scenario catalogue`; \
         what one does step by step, and why it comes to what it comes to: `cargo xtask scenario explain NAME`.\n",
        scenarios.len()
    );
    for (flow, scenarios) in flows {
        page.push_str(&format!(
            "\n## {flow}\n\n| scenario | images | comes to | source |\n|---|---|---|---|\n"
        ));
        for scenario in scenarios {
            let dnf = if scenario.needs_dnf() { " (skipped on those of them that have no dnf)" } else { "" };
            page.push_str(&format!(
                "| [{name}]({name}.toml): {} | {}{dnf} | {} | {} |\n",
                scenario.title,
                scenario.machine.image.names().join(", "),
                counted(scenario.outcomes()),
                scenario.source,
                name = scenario.name,
            ));
        }
    }
    page.push_str(&by_what_moved(scenarios));
    page.push_str(&left_out(scenarios));
    page
}

/// Outcomes in their order; one that comes several times in a row is counted.
fn counted(outcomes: impl Iterator<Item = Outcome>) -> String {
    let all: Vec<Outcome> = outcomes.collect();
    let alike = all.chunk_by(|one, other| one == other);
    let told = alike.map(|some| match some {
        [one] => one.code().to_owned(),
        several => format!("{} x{}", several[0].code(), several.len()),
    });
    told.collect::<Vec<_>>().join(", ")
}

/// Which scenarios are not for which images, and why.
fn left_out(scenarios: &[Scenario]) -> String {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for scenario in scenarios {
        let mut images: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (image, why) in &scenario.left_out {
            images.entry(why).or_default().push(image);
        }
        for (why, images) in images {
            let name = &scenario.name;
            reasons.entry(why).or_default().push(format!("[{name}]({name}.toml) ({})", images.join(", ")));
        }
    }
    let mut page = "\n# Left out\n\nWhich scenarios are not for which of the four reference images that stand for Rocky Linux 9 and 10 with a UKI and with GRUB, and why. rlc10-bls (boot loader \
                    snippets, an XFS, dnf) and the stock images have those for which that makes a difference.\n\n\
                    | why | scenarios |\n|---|---|\n"
        .to_owned();
    let named = |word: &str| scenarios.iter().any(|scenario| scenario.name == word);
    for (why, scenarios) in reasons {
        let link = |word: &str| if named(word) { format!("[{word}]({word}.toml)") } else { word.to_owned() };
        // A name stands at the end, or before a comma.
        let why = why.split(", ").map(|part| match part.rsplit_once(' ') {
            Some((before, last)) => format!("{before} {}", link(last)),
            None => link(part),
        });
        page.push_str(&format!("| {} | {} |\n", why.collect::<Vec<_>>().join(", "), scenarios.join(", ")));
    }
    page
}

/// What of the catalogue somebody wants who knows which PCRs moved, and perhaps the file behind it.
fn by_what_moved(scenarios: &[Scenario]) -> String {
    let mut page = "\n# By what moved\n\nWhich PCRs moved against the last boot that opened by itself, what was behind that, and where it happens: \
                    an image is named where it is otherwise on the scenario's others.\n"
        .to_owned();
    for (what, opens) in
        [("Of a machine that asks, or that nothing opens", false), ("Of one that opens all the same", true)]
    {
        page.push_str(&format!("\n## {what}\n\n| behind it | PCR | scenarios |\n|---|---|---|\n"));
        for ((by, pcrs), names) in behind(scenarios, opens) {
            let pcrs = pcrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            page.push_str(&format!("| {by} | {pcrs} | {} |\n", names.join(", ")));
        }
    }
    page
}

/// What is behind PCRs that moved in boots that open by themselves, or in others; the scenarios in Markdown.
fn behind(scenarios: &[Scenario], opens: bool) -> BTreeMap<(&str, Vec<PcrIndex>), Vec<String>> {
    let mut behind: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for scenario in scenarios {
        let all = scenario.machine.image.names();
        let mut mine: BTreeMap<(&str, Vec<PcrIndex>), BTreeSet<&str>> = BTreeMap::new();
        for (moved, _) in scenario.moved().filter(|(_, outcome)| (*outcome == Outcome::Unlocked) == opens) {
            for image in all {
                let pcrs = moved.on(image);
                if !pcrs.is_empty() {
                    mine.entry((&moved.by, pcrs)).or_default().insert(image);
                }
            }
        }
        for (key, images) in mine {
            let images: Vec<&str> = images.into_iter().collect();
            let on =
                if images.len() == all.len() { String::new() } else { format!(" ({})", images.join(", ")) };
            let name = &scenario.name;
            behind.entry(key).or_default().push(format!("[{name}]({name}.toml){on}"));
        }
    }
    behind
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::path::Path;

    use super::*;

    /// What moves on one image alone is told for that image, and a boot that opens is no machine that asks.
    #[test]
    fn what_moved_is_told_by_image_and_by_what_came_of_it() {
        let text = "title = \"t\"\nwhy = \"w\"\n[machine]\nimage = [\"rlc9-uki\", \"rlc9-grub\"]\nkeys = [\"platform\"]\n\
            seal = { pcrs = [4], bank = \"sha256\" }\n[[step]]\nboot = { expect = \"unlocked\" }\n\
            [[step]]\nboot = { expect = \"no-prompt\", moved = { pcrs = [4], also = { rlc9-grub = [14] }, by = \"dbx\" } }\n\
            [[step]]\nboot = { expect = \"unlocked\", moved = { pcrs = [9], by = \"initrd\" } }\n";
        let scenarios = [Scenario::parse(Path::new("s.toml"), text).unwrap()];
        let page = by_what_moved(&scenarios);
        let (asks, opens) = page.split_once("opens all the same").unwrap();
        assert!(
            asks.contains("| dbx | 4 | [s](s.toml) (rlc9-uki) |\n| dbx | 4, 14 | [s](s.toml) (rlc9-grub) |"),
            "{asks}"
        );
        assert!(opens.contains("| initrd | 9 | [s](s.toml) |") && !asks.contains("initrd"), "{opens}");
    }

    /// The catalogue runs everything wherever it makes sense, and says where it does not.
    #[test]
    fn each_scenario_is_for_each_reference_image_or_says_why_not() {
        for scenario in crate::choice::chosen(&[]).unwrap() {
            for image in ["rlc9-uki", "rlc9-grub", "rlc10-uki", "rlc10-grub"] {
                let runs = scenario.machine.image.names().iter().any(|name| name == image);
                let told = scenario.left_out.contains_key(image);
                assert!(runs != told, "{} neither runs on {image} nor says why", scenario.name);
            }
        }
    }

    /// What a reason sends the reader to is there.
    #[test]
    fn whoever_is_sent_to_another_scenario_finds_it() {
        let catalogue = crate::choice::chosen(&[]).unwrap();
        let sent = catalogue.iter().flat_map(|scenario| scenario.left_out.values());
        let names = sent.filter_map(|why| why.rsplit_once(": ")).flat_map(|(_, to)| to.split(", "));
        // A sentence has blanks.
        let names: Vec<&str> = names.filter(|name| !name.contains(' ')).collect();
        assert!(names.len() > 20, "{names:?}");
        for name in names {
            assert!(catalogue.iter().any(|scenario| scenario.name == name), "there is no scenario {name}");
        }
    }

    /// A row counts if what is done in it is done in no other, not as the beginning of one either.
    #[test]
    fn no_two_rows_of_the_catalogue_do_the_same() {
        let catalogue = crate::choice::chosen(&[]).unwrap();
        let (mut whole, mut begun) = (BTreeMap::new(), BTreeMap::new());
        for scenario in &catalogue {
            for image in scenario.machine.image.names() {
                let mut prefixes = latchkey_scenario::plan::prefixes(scenario, image);
                let before = whole.insert(prefixes.pop(), (&scenario.name, image));
                assert_eq!(before, None, "{} on {image} does what that does", scenario.name);
                begun.extend(prefixes.into_iter().map(|prefix| (Some(prefix), &scenario.name)));
            }
        }
        for (row, (name, image)) in whole {
            assert_eq!(begun.get(&row), None, "{name} on {image} is the beginning of that");
        }
    }
}
