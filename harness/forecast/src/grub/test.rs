//! `test` and `[`.
//!
//! Source: GRUB 2.06 to 2.14, `grub-core/commands/test.c`: a word that is no operator counts as true unless it is empty, `-a` and
//! standing side by side both mean "and", `-o` binds last.

use super::menu::number_at_start;
use super::run::{Run, Stop};

/// Whether the expression holds.
pub(crate) fn holds(args: &[&str], run: &mut Run<'_, '_>) -> Result<bool, Stop> {
    let mut at = 0;
    expression(args, &mut at, 0, run)
}

fn expression(args: &[&str], at: &mut usize, depth: usize, run: &mut Run<'_, '_>) -> Result<bool, Stop> {
    if depth > 100 {
        return run.unmodelled("a test is nested too deeply");
    }
    let (mut any, mut all, mut invert) = (false, true, false);
    while let Some(word) = args.get(*at) {
        let (next, after) = (args.get(*at + 1), args.get(*at + 2));
        if let (Some(operator), Some(_)) = (next, after)
            && (matches!(*operator, "-pgt" | "-plt")
                || operator.starts_with("-nt")
                || operator.starts_with("-ot"))
        {
            return run.unmodelled(&format!("test with {operator} is not modelled"));
        }
        let value = if let (Some(operator), Some(right)) = (next, after)
            && let Some(value) = compare(word, operator, right)
        {
            *at += 3;
            value
        } else if let (Some(operand), true) = (next, matches!(*word, "-d" | "-e" | "-f" | "-s" | "-n" | "-z"))
        {
            *at += 2;
            match *word {
                "-d" => run.looks(operand)? == Some(true),
                "-e" => run.looks(operand)?.is_some(),
                "-f" => run.looks(operand)? == Some(false),
                // The file is opened for its size, and opening measures it.
                "-s" => run.open(operand)?.is_some_and(|(_, bytes)| !bytes.is_empty()),
                "-n" => !operand.is_empty(),
                _ => operand.is_empty(),
            }
        } else {
            *at += 1;
            match *word {
                ")" => break,
                "(" => expression(args, at, depth + 1, run)?,
                "!" => {
                    invert = !invert;
                    continue;
                }
                "-a" => continue,
                "-o" => {
                    any |= all;
                    all = true;
                    continue;
                }
                _ => !word.is_empty(),
            }
        };
        all &= value != invert;
        invert = false;
    }
    Ok(any || all)
}

/// A comparison of two words; `None` when `operator` is none.
fn compare(left: &str, operator: &str, right: &str) -> Option<bool> {
    // `grub_strtosl` takes a number that something follows, and octal and hexadecimal ones; of all 32 bits are left.
    let number = |text: &str| {
        let text = text.trim_start();
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        let bits = number_at_start(digits).map_or(0, |(number, _)| number & 0xffff_ffff);
        let number = u32::try_from(bits).unwrap_or_default().cast_signed();
        if negative { number.wrapping_neg() } else { number }
    };
    Some(match operator {
        "=" | "==" => left == right,
        "!=" => left != right,
        "<" => left < right,
        "<=" => left <= right,
        ">" => left > right,
        ">=" => left >= right,
        "-eq" => number(left) == number(right),
        "-ne" => number(left) != number(right),
        "-lt" => number(left) < number(right),
        "-le" => number(left) <= number(right),
        "-gt" => number(left) > number(right),
        "-ge" => number(left) >= number(right),
        _ => return None,
    })
}
