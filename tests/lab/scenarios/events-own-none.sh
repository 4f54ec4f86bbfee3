# like: own-none
# event-records: yes
