/work/main/tests/guest_modules/build/6.1.0-56-amd64/obj/vsp_loopback.o
