//! From an OCI profile to a BPF program.

use std::collections::BTreeMap;

use cryopod_sys::filter::Instruction;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};

use super::names;

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum SeccompError {
    #[error("action SCMP_ACT_NOTIFY is not supported: nobody listens")]
    Notify,
    #[error("flag {flag} is not supported")]
    Flag { flag: String },
    #[error("argument {index} does not exist, a call has six")]
    Argument { index: usize },
    #[error("the profile needs {count} instructions, the kernel takes 4096")]
    TooLong { count: usize },
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JEQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in struct seccomp_data.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

const fn op(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// What happens to a range of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Leaf {
    Return(u32),
    /// Rules in order, then the action when none fits.
    Rules(Vec<(Vec<LinuxSeccompArg>, u32)>, u32),
}

/// Compiles a profile.
pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<Vec<Instruction>, SeccompError> {
    for flag in profile.flags().iter().flatten() {
        if *flag != LinuxSeccompFilterFlag::SeccompFilterFlagLog
            && *flag != LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow
        {
            return Err(SeccompError::Flag { flag: flag.to_string() });
        }
    }
    let action = |action: LinuxSeccompAction, errno: Option<u32>| match action {
        LinuxSeccompAction::ScmpActNotify => Err(SeccompError::Notify),
        other => Ok(other.as_u32(errno.map(|e| e & 0xffff))),
    };
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut leaves: BTreeMap<u32, Leaf> = BTreeMap::new();
    for rule in profile.syscalls().iter().flatten() {
        let result = action(rule.action(), rule.errno_ret())?;
        let args = rule.args().clone().unwrap_or_default();
        if let Some(bad) = args.iter().find(|a| a.index() > 5) {
            return Err(SeccompError::Argument { index: bad.index() });
        }
        for number in rule.names().iter().filter_map(|name| names::number(name)) {
            let leaf = leaves.entry(number).or_insert_with(|| Leaf::Rules(Vec::new(), default));
            let Leaf::Rules(rules, fallback) = leaf else { continue };
            if !args.is_empty() {
                rules.push((args.clone(), result));
            } else if rules.is_empty() {
                *leaf = Leaf::Return(result);
            } else {
                // Nothing after a rule without conditions is ever reached.
                *fallback = result;
            }
        }
    }
    // A profile older than the kernel: what it cannot know is answered as an old kernel would.
    let unknown = match (profile.default_action(), profile.default_errno_ret()) {
        (LinuxSeccompAction::ScmpActErrno, None) => {
            LinuxSeccompAction::ScmpActErrno.as_u32(Some(libc::ENOSYS as u32))
        }
        _ => default,
    };
    let ranges = ranges(leaves, default, unknown);
    let mut program = vec![
        op(LOAD, OFFSET_ARCH),
        jump(JEQ, ARCH, 1, 0),
        op(RETURN, default),
        op(LOAD, OFFSET_NUMBER),
    ];
    program.extend(tree(&ranges));
    if program.len() > 4096 {
        return Err(SeccompError::TooLong { count: program.len() });
    }
    Ok(program)
}

/// The first number of each range, with what happens in it; ascending, the first is 0.
fn ranges(leaves: BTreeMap<u32, Leaf>, default: u32, unknown: u32) -> Vec<(u32, Leaf)> {
    let mut ranges: Vec<(u32, Leaf)> = Vec::new();
    let mut push = |first: u32, leaf: Leaf| {
        if ranges.last().is_none_or(|(_, last)| *last != leaf) {
            ranges.push((first, leaf));
        }
    };
    let mut next = 0;
    for (number, leaf) in leaves {
        if number > next {
            push(next, Leaf::Return(default));
        }
        push(number, leaf);
        next = number + 1;
    }
    let end = (names::largest() + 1).max(next);
    if next < end {
        push(next, Leaf::Return(default));
    }
    push(end, Leaf::Return(unknown));
    // The numbers of the x32 calls: another ABI, not a younger kernel.
    push(0x4000_0000, Leaf::Return(default));
    ranges
}

fn tree(ranges: &[(u32, Leaf)]) -> Vec<Instruction> {
    match ranges {
        [] => Vec::new(),
        [(_, leaf)] => leaf_code(leaf),
        _ => {
            let (left, right) = ranges.split_at(ranges.len() / 2);
            let (left, right_code) = (tree(left), tree(right));
            let mut code = Vec::with_capacity(left.len() + right_code.len() + 2);
            let distance = left.len() as u32;
            match u8::try_from(distance) {
                Ok(near) => code.push(jump(JGE, right[0].0, near, 0)),
                Err(_) => {
                    code.push(jump(JGE, right[0].0, 0, 1));
                    code.push(op(JUMP, distance));
                }
            }
            code.extend(left);
            code.extend(right_code);
            code
        }
    }
}

fn leaf_code(leaf: &Leaf) -> Vec<Instruction> {
    match leaf {
        Leaf::Return(action) => vec![op(RETURN, *action)],
        Leaf::Rules(rules, fallback) => {
            let mut code = Vec::new();
            for (args, action) in rules {
                code.extend(rule_code(args, *action));
            }
            code.push(op(RETURN, *fallback));
            code
        }
    }
}

/// Marks a jump to the end of its rule until the distance is known.
const FAIL: u8 = u8::MAX;

fn rule_code(args: &[LinuxSeccompArg], action: u32) -> Vec<Instruction> {
    let mut code: Vec<Instruction> = args.iter().flat_map(condition).collect();
    code.push(op(RETURN, action));
    // Six conditions of six instructions at most: every distance fits.
    let end = code.len();
    for (index, instruction) in code.iter_mut().enumerate() {
        if matches!(instruction.code, JEQ | JGT | JGE) {
            let distance = (end - index - 1) as u8;
            if instruction.jt == FAIL {
                instruction.jt = distance;
            }
            if instruction.jf == FAIL {
                instruction.jf = distance;
            }
        }
    }
    code
}

/// Goes on after itself when the condition holds.
fn condition(arg: &LinuxSeccompArg) -> Vec<Instruction> {
    let low_at = OFFSET_ARGS + 8 * arg.index() as u32;
    let (load_low, load_high) = (op(LOAD, low_at), op(LOAD, low_at + 4));
    let split = |value: u64| (value as u32, (value >> 32) as u32);
    let (low, high) = split(arg.value());
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => {
            vec![load_high, jump(JEQ, high, 0, FAIL), load_low, jump(JEQ, low, 0, FAIL)]
        }
        LinuxSeccompOperator::ScmpCmpNe => {
            vec![load_high, jump(JEQ, high, 0, 2), load_low, jump(JEQ, low, FAIL, 0)]
        }
        LinuxSeccompOperator::ScmpCmpGt | LinuxSeccompOperator::ScmpCmpGe => {
            let last = if arg.op() == LinuxSeccompOperator::ScmpCmpGt { JGT } else { JGE };
            vec![
                load_high,
                jump(JGT, high, 3, 0),
                jump(JEQ, high, 0, FAIL),
                load_low,
                jump(last, low, 0, FAIL),
            ]
        }
        LinuxSeccompOperator::ScmpCmpLt | LinuxSeccompOperator::ScmpCmpLe => {
            let last = if arg.op() == LinuxSeccompOperator::ScmpCmpLt { JGE } else { JGT };
            vec![
                load_high,
                jump(JGT, high, FAIL, 0),
                jump(JEQ, high, 0, 2),
                load_low,
                jump(last, low, FAIL, 0),
            ]
        }
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            let (want_low, want_high) = split(arg.value_two().unwrap_or(0));
            vec![
                load_high,
                op(AND, high),
                jump(JEQ, want_high, 0, FAIL),
                load_low,
                op(AND, low),
                jump(JEQ, want_low, 0, FAIL),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What the kernel would answer: an interpreter of the few instructions used.
    fn run(program: &[Instruction], number: u32, arch: u32, args: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend(0u64.to_le_bytes());
        for arg in args {
            data.extend(arg.to_le_bytes());
        }
        let (mut at, mut a) = (0usize, 0u32);
        loop {
            let i = program[at];
            at += 1;
            let branch = |yes: bool| usize::from(if yes { i.jt } else { i.jf });
            match i.code {
                LOAD => {
                    let k = i.k as usize;
                    a = u32::from_le_bytes(data[k..k + 4].try_into().unwrap());
                }
                AND => a &= i.k,
                JUMP => at += i.k as usize,
                JEQ => at += branch(a == i.k),
                JGT => at += branch(a > i.k),
                JGE => at += branch(a >= i.k),
                RETURN => return i.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn program(profile: serde_json::Value) -> Vec<Instruction> {
        compile(&serde_json::from_value(profile).unwrap()).unwrap()
    }

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;

    #[test]
    fn every_number_gets_the_action_of_its_rule() {
        let allowed = ["read", "write", "exit_group", "openat", "futex", "clone3", "mseal"];
        let program = program(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "syscalls": [{"names": allowed, "action": "SCMP_ACT_ALLOW"}]}));
        let numbers: Vec<u32> = allowed.iter().map(|n| names::number(n).unwrap()).collect();
        for number in 0..600 {
            let expected = if numbers.contains(&number) { ALLOW } else { EPERM };
            assert_eq!(run(&program, number, ARCH, [0; 6]), expected, "call {number}");
        }
        assert_eq!(run(&program, 0, 0x4000_0003, [0; 6]), EPERM);
    }

    #[test]
    fn comparisons_are_of_all_64_bits() {
        let values = [0u64, 1, 5, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0005, u64::MAX];
        type Check = fn(u64, u64) -> bool;
        let operators: [(&str, Check); 6] = [
            ("SCMP_CMP_EQ", |a, b| a == b),
            ("SCMP_CMP_NE", |a, b| a != b),
            ("SCMP_CMP_LT", |a, b| a < b),
            ("SCMP_CMP_LE", |a, b| a <= b),
            ("SCMP_CMP_GT", |a, b| a > b),
            ("SCMP_CMP_GE", |a, b| a >= b),
        ];
        for (name, check) in operators {
            for bound in values {
                let program = program(json!({"defaultAction": "SCMP_ACT_ERRNO",
                    "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW",
                        "args": [{"index": 2, "value": bound, "op": name}]}]}));
                for value in values {
                    let mut args = [7; 6];
                    args[2] = value;
                    let expected = if check(value, bound) { ALLOW } else { EPERM };
                    assert_eq!(
                        run(&program, 0, ARCH, args),
                        expected,
                        "{value:#x} {name} {bound:#x}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_mask_is_the_first_value_and_the_result_the_second() {
        let program = program(json!({"defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 0xf0, "valueTwo": 0x20, "op": "SCMP_CMP_MASKED_EQ"}]}]}));
        assert_eq!(run(&program, 0, ARCH, [0x12f, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(run(&program, 0, ARCH, [0x13f, 0, 0, 0, 0, 0]), EPERM);
    }

    #[test]
    fn calls_younger_than_the_table_are_unknown_rather_than_forbidden() {
        let program = program(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}));
        assert_eq!(run(&program, 999, ARCH, [0; 6]), 0x0005_0000 | libc::ENOSYS as u32);
        assert_eq!(run(&program, 0x4000_0001, ARCH, [0; 6]), EPERM);
    }

    #[test]
    fn a_listener_is_refused() {
        let profile = serde_json::from_value(json!({"defaultAction": "SCMP_ACT_NOTIFY"})).unwrap();
        assert_eq!(compile(&profile).unwrap_err(), SeccompError::Notify);
    }
}
