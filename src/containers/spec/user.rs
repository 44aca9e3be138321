//! Who a container runs as.

use std::path::Path;

use cri::{ContainerUser, SecurityContext};
use linux::beneath::Root;
use serde::{Deserialize, Serialize};

use crate::error::invalid;

/// Most bytes read of the image's user and group tables.
const MAX_TABLE: u64 = 4 << 20;

/// Numeric identity of a process, and its home.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl User {
    /// Resolves the configured user, or the image's `user[:group]`, against
    /// the tables of the image.
    pub(crate) fn resolve(
        root: &Root,
        security: &SecurityContext,
        image_user: &str,
    ) -> cri::Result<Self> {
        // An image without tables, or with ones that are no files, has no names.
        let read = |path: &str| {
            let bytes = root.read(Path::new(path), MAX_TABLE).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        resolve(
            &read("etc/passwd"),
            &read("etc/group"),
            security,
            image_user,
        )
    }
}

fn resolve(
    passwd: &str,
    group: &str,
    security: &SecurityContext,
    image_user: &str,
) -> cri::Result<User> {
    let (image_name, image_group) = match image_user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (image_user, None),
    };
    let (name, group_name) = match &security.run_as_user {
        Some(ContainerUser::Uid(uid)) => (uid.to_string(), None),
        Some(ContainerUser::Name(name)) => (name.clone(), None),
        None => (image_name.to_owned(), image_group),
    };
    let by_number = if name.is_empty() {
        Some(0)
    } else {
        parse_id(&name)?
    };
    let entry = passwd
        .lines()
        .filter_map(parse_passwd)
        .find(|line| match by_number {
            Some(uid) => line.uid == uid,
            None => line.name == name,
        });
    let uid = match (by_number, &entry) {
        (Some(uid), _) => uid,
        (None, Some(entry)) => entry.uid,
        (None, None) => {
            return Err(invalid(format!(
                "unable to find user {name}: no matching entries in passwd file"
            )));
        }
    };
    let gid = match (security.run_as_group, group_name) {
        (Some(gid), _) => u32::try_from(gid)
            .map_err(|_| invalid(format!("group {gid} is not between 0 and 4294967295")))?,
        (None, Some(group_name)) => match parse_id(group_name)? {
            Some(gid) => gid,
            None => groups(group)
                .find(|(own, ..)| *own == group_name)
                .map(|(_, gid, _)| gid)
                .ok_or_else(|| {
                    invalid(format!(
                        "unable to find group {group_name}: no matching entries in group file"
                    ))
                })?,
        },
        (None, None) => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut list = vec![gid];
    let mut add = |gid: u32| {
        if !list.contains(&gid) {
            list.push(gid);
        }
    };
    if !security.supplemental_groups_strict
        && let Some(entry) = &entry
    {
        groups(group)
            .filter(|(_, _, members)| members.split(',').any(|member| member == entry.name))
            .for_each(|(_, gid, _)| add(gid));
    }
    for &gid in &security.supplemental_groups {
        add(u32::try_from(gid)
            .map_err(|_| invalid(format!("group {gid} is not between 0 and 4294967295")))?);
    }
    let home = entry
        .map(|e| e.home)
        .filter(|home| !home.is_empty())
        .unwrap_or("/")
        .to_owned();
    Ok(User {
        uid,
        gid,
        groups: list,
        home,
    })
}

/// A number, or `None` for a name. Numbers that are no ids are refused.
fn parse_id(text: &str) -> cri::Result<Option<u32>> {
    if !text.bytes().all(|b| b.is_ascii_digit() || b == b'-') || text.starts_with("--") {
        return Ok(None);
    }
    match text.parse::<i64>() {
        Ok(number) => u32::try_from(number)
            .map(Some)
            .map_err(|_| invalid(format!("id {text} is not between 0 and 4294967295"))),
        Err(_) => Ok(None),
    }
}

fn parse_passwd(line: &str) -> Option<PasswdLine<'_>> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(PasswdLine {
        name,
        uid,
        gid,
        home: fields.nth(1).unwrap_or_default(),
    })
}

fn groups(table: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    table.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:50:web,other\n";

    fn check(
        security: &SecurityContext,
        image: &str,
    ) -> Result<(u32, u32, Vec<u32>, String), String> {
        resolve(PASSWD, GROUP, security, image)
            .map(|u| (u.uid, u.gid, u.groups, u.home))
            .map_err(|error| error.message)
    }

    #[test]
    fn users_are_found() {
        let none = SecurityContext::default();
        let uid = |uid| SecurityContext {
            run_as_user: Some(ContainerUser::Uid(uid)),
            ..SecurityContext::default()
        };
        assert_eq!(check(&none, "").unwrap(), (0, 0, vec![0], "/root".into()));
        assert_eq!(
            check(&none, "web").unwrap(),
            (33, 34, vec![34, 50], "/srv".into())
        );
        assert_eq!(
            check(&none, "web:logs").unwrap(),
            (33, 50, vec![50], "/srv".into())
        );
        assert_eq!(check(&none, "7:8").unwrap(), (7, 8, vec![8], "/".into()));
        assert_eq!(
            check(&uid(33), "root").unwrap(),
            (33, 34, vec![34, 50], "/srv".into())
        );
        assert_eq!(
            check(&uid(1000), "web").unwrap(),
            (1000, 0, vec![0], "/".into())
        );
        let strict = SecurityContext {
            run_as_group: Some(9),
            supplemental_groups: vec![9, 77],
            supplemental_groups_strict: true,
            ..uid(33)
        };
        assert_eq!(
            check(&strict, "").unwrap(),
            (33, 9, vec![9, 77], "/srv".into())
        );
        assert!(
            check(&none, "nobody")
                .unwrap_err()
                .contains("no matching entries in passwd")
        );
        assert!(
            check(&none, "web:none")
                .unwrap_err()
                .contains("no matching entries in group")
        );
        assert!(check(&uid(-1), "").is_err());
    }
}
