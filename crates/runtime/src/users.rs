//! Users and groups by name, looked up in the container's own `/etc/passwd` and `/etc/group`.

use std::path::Path;

use crate::config::RunAs;
use crate::error::RuntimeError;
use crate::root::RootPlan;

/// Who a process runs as, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, ascending, without doubles.
    pub(crate) groups: Vec<u32>,
    /// Home folder; `/` when the user is not listed.
    pub(crate) home: String,
}

struct Passwd {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

fn passwd(text: &str) -> Vec<Passwd> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        Some(Passwd {
            name: (*fields.first()?).to_owned(),
            uid: fields.get(2)?.parse().ok()?,
            gid: fields.get(3)?.parse().ok()?,
            home: fields.get(5).copied().unwrap_or("/").to_owned(),
        })
    };
    text.lines().filter_map(parse).collect()
}

fn groups(text: &str) -> Vec<Group> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let members = fields.get(3).copied().unwrap_or_default();
        Some(Group {
            name: (*fields.first()?).to_owned(),
            gid: fields.get(2)?.parse().ok()?,
            members: members.split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect(),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// Finds out who a process runs as: what was asked for, else what the image says, else root.
pub(crate) fn resolve(
    asked: &RunAs,
    image_user: &str,
    root: &RootPlan,
) -> Result<Identity, RuntimeError> {
    let read = |path: &str| {
        String::from_utf8_lossy(&root.read_file(Path::new(path)).unwrap_or_default()).into_owned()
    };
    select(asked, image_user, &passwd(&read("etc/passwd")), &groups(&read("etc/group")))
}

fn select(
    asked: &RunAs,
    image_user: &str,
    users: &[Passwd],
    groups: &[Group],
) -> Result<Identity, RuntimeError> {
    let text = match (asked.uid, asked.user_name.as_str()) {
        (Some(uid), _) => uid.to_string(),
        (None, "") => image_user.to_owned(),
        (None, name) => name.to_owned(),
    };
    let (user, group) = text.split_once(':').unwrap_or((&text, ""));
    let user = if user.is_empty() { "0" } else { user };
    let listed = match user.parse::<u32>() {
        Ok(uid) => users.iter().find(|u| u.uid == uid),
        Err(_) => Some(users.iter().find(|u| u.name == user).ok_or_else(|| {
            RuntimeError::InvalidArgument {
                field: "user",
                reason: format!("the container's /etc/passwd has no user {user:?}"),
            }
        })?),
    };
    let uid = listed.map_or_else(|| user.parse().unwrap_or(0), |u| u.uid);
    let gid = match (asked.gid, group) {
        (Some(gid), _) => gid,
        (None, "") => listed.map_or(0, |u| u.gid),
        (None, group) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => groups.iter().find(|g| g.name == group).map(|g| g.gid).ok_or_else(|| {
                RuntimeError::InvalidArgument {
                    field: "user",
                    reason: format!("the container's /etc/group has no group {group:?}"),
                }
            })?,
        },
    };
    let mut all: Vec<u32> = asked.supplemental_groups.clone();
    // A group given by hand stands for itself alone; else the user's own groups come along.
    if group.is_empty()
        && let Some(user) = listed
    {
        all.extend(groups.iter().filter(|g| g.members.contains(&user.name)).map(|g| g.gid));
    }
    all.push(gid);
    all.sort_unstable();
    all.dedup();
    let home = listed.map_or_else(|| "/".to_owned(), |u| u.home.clone());
    Ok(Identity { uid, gid, groups: all, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nredis:x:999:998:,,,:/data:/bin/false\n";
    const GROUPS: &str = "root:x:0:\nredis:x:998:\nlogs:x:5:redis,other\n";

    fn ask(run_as: &RunAs, image: &str) -> Result<Identity, RuntimeError> {
        select(run_as, image, &passwd(USERS), &groups(GROUPS))
    }

    #[test]
    fn a_name_brings_its_group_its_other_groups_and_its_home() {
        let found = ask(&RunAs::default(), "redis").unwrap();
        assert_eq!(
            found,
            Identity { uid: 999, gid: 998, groups: vec![5, 998], home: "/data".into() }
        );
    }

    #[test]
    fn numbers_need_not_be_listed() {
        let asked = RunAs { uid: Some(4000), supplemental_groups: vec![7], ..RunAs::default() };
        let found = ask(&asked, "redis").unwrap();
        assert_eq!(found, Identity { uid: 4000, gid: 0, groups: vec![0, 7], home: "/".into() });
    }

    #[test]
    fn a_group_by_name_is_looked_up() {
        assert_eq!(ask(&RunAs::default(), "redis:logs").unwrap().gid, 5);
        assert!(ask(&RunAs::default(), "redis:nobody").is_err());
        assert!(ask(&RunAs::default(), "ghost").is_err());
    }
}
