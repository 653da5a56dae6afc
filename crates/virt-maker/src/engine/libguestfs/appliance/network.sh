# Gives the interface behind qemu's user network its address, once.
if [ ! -e $here/network ]; then
    ip -n net -batch $here/network.batch || fail 'error=cannot set up the network of the appliance'
    : >$here/network
fi
