#!/bin/sh
# chkconfig: 2345 99 01
# description: first-boot scripts of virt-maker
### BEGIN INIT INFO
# Provides:          virt-maker-firstboot
# Required-Start:    $local_fs $network
# Required-Stop:
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: first-boot scripts of virt-maker
### END INIT INFO
[ "$1" = start ] || exit 0
exec /bin/sh /usr/lib/virt-maker/firstboot
