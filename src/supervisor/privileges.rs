//! Drops root privileges: a gateway that is started as root runs as another user.
//!
//! In Linux, credentials belong to a thread, and an allocator may have started threads before
//! `main`. The current thread therefore changes its credentials and executes the program again,
//! which ends all other threads. The new image does everything as that user, from the first read of
//! a key. A file that only root can read is thus found at the start and not by a later reload.
//! `CAP_NET_BIND_SERVICE` is kept as an ambient capability, so that reloads and binary upgrades can
//! still bind ports below 1024.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Gid, Uid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// Environment variable that allows a gateway to run as root without `allow-root`. Used by tests.
const ALLOW_ROOT: &str = "APP_GATEWAY_ALLOW_ROOT";

/// A user of the system, with the groups that a process of this user gets.
#[derive(Debug, Eq, PartialEq)]
pub struct UserAccount {
    uid: u32,
    gid: u32,
    /// Supplementary groups, including the primary group.
    groups: Vec<u32>,
}

/// Whether this process is root and `APP_GATEWAY_ALLOW_ROOT` is not set.
#[must_use]
pub fn is_unwanted_root() -> bool {
    let allowed = std::env::var_os(ALLOW_ROOT).is_some_and(|value| !value.is_empty());
    rustix::process::geteuid().is_root() && !allowed
}

impl UserAccount {
    /// Looks up `USER` or `USER:GROUP`, by name or number, in `/etc/passwd` and `/etc/group`.
    ///
    /// # Errors
    ///
    /// A sentence that names the missing user or group and a remedy.
    pub fn find(written: &str) -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self::find_in(written, &read("/etc/passwd"), &read("/etc/group"))
    }

    fn find_in(written: &str, passwd: &str, group: &str) -> Result<Self, String> {
        let (user, wanted) = match written.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (written, None),
        };
        let users = entries(passwd);
        let known = users.iter().find(|fields| fields[0] == user || fields[2] == user);
        let uid = known.map_or(user, |fields| fields[2]).parse().map_err(|_| {
            format!(
                "there is no user `{user}` in /etc/passwd: `useradd --system --no-create-home --shell \
                 /usr/sbin/nologin {user}` makes one; a user from elsewhere is written as UID:GID"
            )
        })?;
        let groups = entries(group);
        let gid = match (wanted, known) {
            (Some(wanted), _) => {
                let found = groups.iter().find(|fields| fields[0] == wanted);
                found
                    .map_or(wanted, |fields| fields[2])
                    .parse()
                    .map_err(|_| format!("there is no group `{wanted}` in /etc/group"))?
            }
            (None, Some(fields)) => {
                fields[3].parse().map_err(|_| format!("the group of user `{user}` is unknown"))?
            }
            (None, None) => {
                return Err(format!("user {user} is not in /etc/passwd: write USER:GROUP"));
            }
        };
        if uid == 0 {
            return Err(format!("user `{user}` is root"));
        }
        let name = known.map_or(user, |fields| fields[0]);
        let member = |fields: &&Vec<&str>| fields[3].split(',').any(|member| member == name);
        let mut all = vec![gid];
        all.extend(groups.iter().filter(member).filter_map(|fields| fields[2].parse::<u32>().ok()));
        all.dedup();
        Ok(Self { uid, gid, groups: all })
    }

    /// User and group number, for `chown`.
    #[must_use]
    pub fn owner(&self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// Executes the program again as this user, with the same arguments. Returns an error message,
    /// and only if that fails. The process must then exit, because it may already have changed its
    /// user.
    #[must_use]
    pub fn execute(&self, arguments: impl Iterator<Item = OsString>) -> String {
        let mut arguments = arguments.fuse();
        // The path is preferred to /proc/self/exe, which `ps` would show as the process name.
        let program = std::env::current_exe().ok().filter(|path| path.exists());
        let program = program.unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
        if let Err(error) = self.take() {
            return format!("cannot change to user {}: {error}", self.uid);
        }
        let mut command = Command::new(&program);
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        let error = command.args(arguments).exec();
        format!(
            "user {} cannot start {}: {error}; put the program where that user can reach it",
            self.uid,
            program.display()
        )
    }

    /// Changes the credentials of this thread to those of the user. This cannot be undone.
    fn take(&self) -> rustix::io::Result<()> {
        let groups: Vec<Gid> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        thread::set_no_new_privs(true)?;
        thread::set_keep_capabilities(true)?;
        thread::set_thread_groups(&groups)?;
        thread::set_thread_res_gid(gid, gid, gid)?;
        thread::set_thread_res_uid(uid, uid, uid)?;
        // A container may not grant this capability. Binding a low port then fails with an error.
        let kept = thread::capabilities(None)?.permitted & CapabilitySet::NET_BIND_SERVICE;
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: kept };
        thread::set_capabilities(None, sets)?;
        if !kept.is_empty() {
            thread::configure_capability_in_ambient_set(kept, true)?;
        }
        Ok(())
    }
}

/// Fields of the lines of a file such as `/etc/passwd`. Lines with fewer than four are left out.
fn entries(text: &str) -> Vec<Vec<&str>> {
    let fields = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.filter(|fields| fields.len() >= 4).collect()
}

/// Error message for a gateway that is started as root.
#[must_use]
pub fn refusal(directory: &Path) -> String {
    format!(
        "app-gateway does not run as root: set `user` in [gateway] of {} to the user to run as \
         (`user = \"app-gateway\"`); or, to run as root all the same, `allow-root = true` there or \
         {ALLOW_ROOT}=1 in the environment",
        directory.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nedge:x:998:997::/:/usr/sbin/nologin\n# odd\n";
    const GROUP: &str = "root:x:0:\nedge:x:997:\nssl-cert:x:110:postgres,edge\nadm:x:4:\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        let find = |written| UserAccount::find_in(written, PASSWD, GROUP);
        let edge = UserAccount { uid: 998, gid: 997, groups: vec![997, 110] };
        assert_eq!(find("edge").unwrap(), edge);
        assert_eq!(find("998").unwrap(), edge);
        assert_eq!(find("edge:adm").unwrap().groups, [4, 110]);
        assert_eq!(
            find("10001:10001").unwrap(),
            UserAccount { uid: 10001, gid: 10001, groups: vec![10001] }
        );
        for (written, why) in [
            ("nobody", "no user `nobody`"),
            ("10001", "write USER:GROUP"),
            ("edge:none", "no group `none`"),
            ("root", "is root"),
            ("0:0", "is root"),
        ] {
            let error = find(written).unwrap_err();
            assert!(error.contains(why), "{written}: {error}");
        }
    }
}
