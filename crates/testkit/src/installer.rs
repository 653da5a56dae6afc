//! CDs: one that boots a program of a PC, or nothing; and an installer, which asks its questions on the screen and installs a small
//! system that says what it was told.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::fixture;
use crate::command::{run, run_with_input};
use crate::machine::host_kernel;
use crate::tiny::busybox;

/// Raise it when the installer or the way it is made changes.
const RECIPE: u32 = 2;
/// Kernel modules that it needs: for its disk, for the CD with files, for the file system on that, and for its network.
const MODULES: [&str; 7] = ["virtio_pci", "virtio_scsi", "sd_mod", "ata_piix", "sr_mod", "isofs", "virtio_net"];
/// Where GRUB's parts for BIOS are.
const GRUB: &str = "/usr/lib/grub/i386-pc";
/// The same for UEFI.
const GRUB_FOR_UEFI: &str = "/usr/lib/grub/x86_64-efi";

/// Makes a CD at `target`, whose BIOS runs `code` as it does a boot sector; a CD that does not boot where there is none.
pub fn boot_cd(target: &Path, code: Option<&[u8]>) {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let folder = scratch.path();
    fs::write(folder.join("README"), "A CD of the tests.\n").expect("an own file");
    let mut xorriso = Command::new("xorriso");
    xorriso.args(["-no_rc", "-as", "mkisofs", "-quiet", "-V", "TESTS", "-o"]).arg(target);
    if let Some(code) = code {
        let mut sectors = code.to_vec();
        sectors.resize(2048, 0);
        fs::write(folder.join("boot.bin"), sectors).expect("an own file");
        xorriso.args(["-b", "boot.bin", "-no-emul-boot", "-boot-load-size", "4"]);
    }
    run(xorriso.arg(folder));
}

/// A CD with GRUB for UEFI alone, which runs these commands; nobody signed it.
pub fn grub_cd_for_uefi(commands: &str) -> PathBuf {
    let recipe = format!("grub for UEFI {RECIPE} {commands}");
    fixture("grub-uefi", "iso", recipe.as_bytes(), |target, scratch| {
        let tree = scratch.join("cd");
        fs::create_dir_all(tree.join("boot/grub")).expect("an own folder");
        fs::write(tree.join("boot/grub/grub.cfg"), commands).expect("an own file");
        run(Command::new("grub-mkrescue").args(["-d", GRUB_FOR_UEFI, "-o"]).arg(target).arg(&tree));
    })
}

/// An installer: GRUB's menu, whose second entry is a Linux with a dialogue on the screen. It asks for a name, and whether it may erase
/// the disk; it says what is in the file `answer` of a CD with the label `FILES`, if there is one, and what it finds at the addresses in
/// `fetch` there. It partitions the disk, makes a file
/// system and a boot loader on it, waits for Enter, and powers off. The system that it installed says `NAME is installed` on its serial
/// console, and powers off.
pub fn installer_cd() -> PathBuf {
    let kernel = host_kernel();
    let recipe = format!("installer {RECIPE} {kernel} {INIT} {MENU}");
    fixture("installer", "iso", recipe.as_bytes(), |target, scratch| {
        let tree = scratch.join("cd");
        fs::create_dir_all(tree.join("boot/grub")).expect("an own folder");
        fs::copy(format!("/boot/vmlinuz-{kernel}"), tree.join("boot/vmlinuz")).expect("the host's kernel");
        fs::write(tree.join("boot/initrd"), initramfs(&kernel, scratch)).expect("an own file");
        fs::write(tree.join("boot/grub/grub.cfg"), MENU).expect("an own file");
        run(Command::new("grub-mkrescue").arg("-o").arg(target).arg(&tree));
    })
}

// A machine that is emulated on a busy host may miss the ticks that the kernel looks for, and panics then.
const MENU: &str = "set timeout=-1\n\
                    menuentry 'Look at the disk' { halt }\n\
                    menuentry 'Install' {\n  linux /boot/vmlinuz quiet no_timer_check\n  initrd /boot/initrd\n}\n";

const INIT: &str = r#"#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules); do insmod /lib/$module; done
# More lines than a screen has: it scrolls.
for number in $(seq 1 60); do echo "line $number of the licence"; done
echo 'Welcome to the installer.'
printf 'Name of the system: '
read name
for try in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/sda ] && break; sleep 0.2; done
for cd in /dev/sr1 /dev/sr0; do
  mount -t iso9660 -o ro $cd /mnt 2>/dev/null || continue
  [ -e /mnt/answer ] && echo "The answer is $(cat /mnt/answer)"
  [ -e /mnt/fetch ] && fetch=$(cat /mnt/fetch)
  umount /mnt
done
if [ -n "$fetch" ]; then
  ip link set eth0 up
  ip address add 169.254.2.15/24 dev eth0
  for address in $fetch; do echo "$address: $(wget -q -O - "$address" 2>/dev/null || echo none)"; done
fi
printf "Erase the disk? (yes/no) "
read answer
[ "$answer" = yes ] || poweroff -f
printf 'o\nn\np\n1\n2048\n\na\n1\nw\n' | fdisk /dev/sda >/log 2>&1
sleep 0.2
[ -b /dev/sda1 ] || mdev -s
mke2fs /dev/sda1 >>/log 2>&1 && mount -t ext2 /dev/sda1 /mnt >>/log 2>&1 || cat /log
mkdir -p /mnt/boot/grub
printf 'serial\nterminal_output serial\necho "%s is installed"\nhalt\n' "$name" >/mnt/boot/grub/grub.cfg
umount /mnt
dd if=/boot.img of=/dev/sda bs=440 count=1 conv=notrunc 2>/dev/null
dd if=/core.img of=/dev/sda bs=512 seek=1 conv=notrunc 2>/dev/null
sync
echo 'Done. Press Enter to power off.'
read answer
poweroff -f
"#;

/// What the installer runs in, as a compressed archive.
fn initramfs(kernel: &str, scratch: &Path) -> Vec<u8> {
    let tree = scratch.join("initramfs");
    for folder in ["bin", "lib", "proc", "sys", "dev", "mnt"] {
        fs::create_dir_all(tree.join(folder)).expect("an own folder");
    }
    let busybox = busybox();
    fs::copy(&busybox, tree.join("bin/busybox")).expect("busybox is readable");
    let applets = run(Command::new(&busybox).arg("--list"));
    for applet in String::from_utf8(applets.stdout).expect("names of applets").lines() {
        if applet != "busybox" {
            symlink("busybox", tree.join("bin").join(applet)).expect("an empty folder");
        }
    }
    let mut names = String::new();
    for path in modules(kernel) {
        let name = path.file_name().expect("a file").to_str().expect("a plain name");
        fs::copy(&path, tree.join("lib").join(name)).expect("the host's modules");
        names.push_str(&format!("{name}\n"));
    }
    fs::write(tree.join("modules"), names).expect("an own file");
    fs::write(tree.join("init"), INIT).expect("an own file");
    fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755)).expect("an own file");
    fs::copy(format!("{GRUB}/boot.img"), tree.join("boot.img")).expect("GRUB is installed (package grub-pc-bin)");
    let mut mkimage = Command::new("grub-mkimage");
    mkimage.args(["-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o"]).arg(tree.join("core.img"));
    run(mkimage.args(["biosdisk", "part_msdos", "ext2", "normal", "echo", "serial", "terminal", "halt"]));
    let listed = run(Command::new("find").arg(".").current_dir(&tree)).stdout;
    let mut cpio = Command::new(&busybox);
    let archive = run_with_input(cpio.args(["cpio", "-o", "-H", "newc"]).current_dir(&tree), &listed).stdout;
    let file = scratch.join("initrd.cpio");
    fs::write(&file, archive).expect("an own file");
    run(Command::new("gzip").args(["-n", "-1", "-c"]).arg(&file)).stdout
}

/// The files of [`MODULES`] and of those that they need, each after what it needs.
fn modules(kernel: &str) -> Vec<PathBuf> {
    let root = PathBuf::from(format!("/lib/modules/{kernel}"));
    let known = fs::read_to_string(root.join("modules.dep")).expect("the host's modules are listed");
    let needs = |name: &str| -> Vec<String> {
        // A module that is built in has no line.
        let line =
            known.lines().find(|line| line.split(':').next().is_some_and(|path| path.contains(&format!("/{name}.ko"))));
        let words = line.map(|line| line.replace(':', " ")).unwrap_or_default();
        words.split_whitespace().map(str::to_owned).collect()
    };
    let mut list: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for name in MODULES {
        // What a module needs stands behind it, the deepest last.
        for path in needs(name).into_iter().rev() {
            if seen.insert(path.clone()) {
                list.push(path);
            }
        }
    }
    list.into_iter().map(|path| root.join(path)).collect()
}
